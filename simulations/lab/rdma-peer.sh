ib_write_bw -d rxe0 -s 262144 -n 400 >/tmp/server 2>&1 &
busybox sleep 2
ib_write_bw -d rxe0 -s 262144 -n 400 10.9.0.1 | busybox grep -A1 BW
