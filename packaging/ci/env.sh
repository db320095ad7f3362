# Sourced by the scripts that build: all programs, tests and tools are built in one way, which is the way of the
# shipped programs. So each package is compiled once, and every later step finds it in the cache of Go.
# The race detector alone needs cgo.
case " ${HOLDFAST_TEST_FLAGS:-} " in
*" -race "*) export CGO_ENABLED=1 ;;
*) export CGO_ENABLED=0 ;;
esac
case " ${GOFLAGS:-} " in
*" -trimpath "*) ;;
*) export GOFLAGS="${GOFLAGS:-} -trimpath" ;;
esac
