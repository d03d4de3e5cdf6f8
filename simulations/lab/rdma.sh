# Training jobs over RDMA: a Soft-RoCE device on one end of a pair of interfaces, and the tests that need one.
set -e
/bin/ip link add e0 type veth peer name e1
/bin/ip addr add 10.9.0.1/24 dev e0
/bin/ip link set e0 up
/bin/ip link set e1 up
/bin/rdma link add rxe0 type rxe netdev e0
ulimit -l unlimited
export HEADWATER_TEST_PROGRAMS=/bin TMPDIR=/tmp RUST_BACKTRACE=1
TESTS
