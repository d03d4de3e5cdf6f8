# Twice, for what one run finds is not what the next one does.
for run in 1 2; do
    ib_write_bw -d rxe0 -s 262144 -n 1000 >/tmp/server 2>&1 &
    busybox sleep 2
    ib_write_bw -d rxe0 -s 262144 -n 1000 10.9.0.1 | busybox grep '^ *262144' |
        busybox awk '{ printf "ib_write_bw: 256 KiB at %.1f MB/s\n", $4 * 1.048576 }'
done
