#include "textflag.h"

// STEP takes the next byte: h = gear[byte] + h<<1, found when no bit of the mask is left.
#define STEP(K) \
	MOVBU.P 1(R1), R6             \
	MOVD    (R0)(R6<<3), R7       \
	ADD     R3<<1, R7, R3         \
	TST     R4, R3                \
	BEQ     found

// func scan(gear *[256]uint64, p []byte, h, mask uint64) (int, uint64)
TEXT ·scan(SB), NOSPLIT, $0-64
	MOVD gear+0(FP), R0
	MOVD p_base+8(FP), R1
	MOVD p_len+16(FP), R2
	MOVD h+32(FP), R3
	MOVD mask+40(FP), R4
	MOVD R1, R5          // where p begins
	ADD  R1, R2, R8      // where it ends
	AND  $~7, R2, R9
	ADD  R1, R9, R9      // where the last turn of eight ends

turn:
	CMP  R9, R1
	BHS  rest
	STEP(0)
	STEP(1)
	STEP(2)
	STEP(3)
	STEP(4)
	STEP(5)
	STEP(6)
	STEP(7)
	B    turn

rest:
	CMP  R8, R1
	BHS  none
	STEP(0)
	B    rest

none:
	MOVD ZR, ret+48(FP)
	MOVD R3, ret1+56(FP)
	RET

found:
	SUB  R5, R1, R6      // the byte was taken: R1 is behind it
	MOVD R6, ret+48(FP)
	MOVD R3, ret1+56(FP)
	RET
