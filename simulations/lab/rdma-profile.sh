# Shares of all processors' time: by process, by function, and of the core's own code, where a copy of payload would show.
shares() {
    perf report --input /tmp/profile --stdio --no-children "$@" 2>/dev/null |
        busybox grep '^ *[0-9.]*%' | busybox sed 's/ *- *- *$//'
}
echo "by process:"
shares --sort comm --percent-limit 0.5
echo "by function:"
shares --sort comm,dso,symbol --percent-limit 0.5
echo "the core outside of the kernel:"
shares --comm core,rdma,core-node --dsos core-node,libc.so.6,librxe-rdmav34.so,libibverbs.so.1 --sort comm,dso,symbol --percent-limit 0.02
