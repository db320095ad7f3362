#include "textflag.h"

// STEP takes the byte at offset K of the turn: h = h<<1 + gear[byte], found when no bit of the mask is left.
// LEA does shift and addition in one cycle, which is all that one byte has to wait for the one before.
#define STEP(K, FOUND) \
	MOVBLZX K(SI)(DX*1), AX   \
	MOVQ    (DI)(AX*8), BX    \
	LEAQ    (BX)(R8*2), R8    \
	TESTQ   R9, R8            \
	JZ      FOUND

// func scan(gear *[256]uint64, p []byte, h, mask uint64) (int, uint64)
TEXT ·scan(SB), NOSPLIT, $0-64
	MOVQ gear+0(FP), DI
	MOVQ p_base+8(FP), SI
	MOVQ p_len+16(FP), CX
	MOVQ h+32(FP), R8
	MOVQ mask+40(FP), R9
	XORQ DX, DX
	MOVQ CX, R10
	ANDQ $~7, R10

turn:
	CMPQ DX, R10
	JGE  rest
	STEP(0, found0)
	STEP(1, found1)
	STEP(2, found2)
	STEP(3, found3)
	STEP(4, found4)
	STEP(5, found5)
	STEP(6, found6)
	STEP(7, found7)
	ADDQ $8, DX
	JMP  turn

rest:
	CMPQ DX, CX
	JGE  none
	STEP(0, found0)
	INCQ DX
	JMP  rest

none:
	MOVQ $0, ret+48(FP)
	MOVQ R8, ret1+56(FP)
	RET

found7:
	INCQ DX
found6:
	INCQ DX
found5:
	INCQ DX
found4:
	INCQ DX
found3:
	INCQ DX
found2:
	INCQ DX
found1:
	INCQ DX
found0:
	INCQ DX
	MOVQ DX, ret+48(FP)
	MOVQ R8, ret1+56(FP)
	RET
