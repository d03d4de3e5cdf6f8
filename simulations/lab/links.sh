# Four network namespaces in a row, with real daemons at the ends:
#
#   device a0 -- a1 bottleneck b0 -- b1 wire c1 -- c0 core
#
# The way up passes the bottleneck's rate and queue at b0, then delay and loss at c1; the way down only delay and loss, at b1.
# A queue of its own machine would push back on a sender, which no router does: so the ends shape nothing.
# busybox's shell prefers its own applets, so ip and tc are called by their paths.

in_space() { space=$1; shift; /bin/ip netns exec "$space" "$@"; }

veth() { # namespace device address namespace device address
  /bin/ip link add "$2" netns "$1" type veth peer name "$5" netns "$4"
  /bin/ip -n "$1" addr add "$3/24" dev "$2"; /bin/ip -n "$4" addr add "$6/24" dev "$5"
  # Each packet for itself, as on a wire: what is lost and what waits are packets then.
  /bin/ip -n "$1" link set "$2" up gso_max_segs 1; /bin/ip -n "$4" link set "$5" up gso_max_segs 1
}

make_links() {
  for space in device bottleneck wire core; do
    /bin/ip netns add $space && /bin/ip -n $space link set lo up
    in_space $space sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
  done
  veth device a0 10.9.1.1 bottleneck a1 10.9.1.2
  veth bottleneck b0 10.9.2.1 wire b1 10.9.2.2
  veth wire c1 10.9.3.1 core c0 10.9.3.2
  /bin/ip -n device route add default via 10.9.1.2
  /bin/ip -n bottleneck route add 10.9.3.0/24 via 10.9.2.2
  /bin/ip -n wire route add 10.9.1.0/24 via 10.9.2.1
  /bin/ip -n core route add default via 10.9.3.1
}

# shape KBIT RTT_MS LOSS_PERCENT: a queue of one bandwidth-delay product, and no less than four packets.
shape() {
  queue=$(($1 * $2 / 8)); [ $queue -ge 6000 ] || queue=6000
  /bin/tc -n bottleneck qdisc replace dev b0 root tbf rate $1kbit burst 3100 limit $queue
  for device in c1 b1; do
    /bin/tc -n wire qdisc replace dev $device root netem delay $(($2 / 2))ms loss $3% limit 100000
  done
}

# start_core; then join_device
start_core() {
  core-node --data /root/core init --listen 10.9.3.2:4733 --admin-listen 127.0.0.1:0 >/root/core.init 2>&1 || { cat /root/core.init; return 1; }
  # The catalog speaks of its own machine in this namespace only.
  in_space core core-node --data /root/core run >>/root/core.log 2>&1 &
  tries=0
  until [ -s /root/core/address ]; do
    tries=$((tries + 1)); [ $tries -lt 300 ] || { cat /root/core.log; return 1; }
    sleep 0.2
  done
}

join_device() {
  token=$(in_space core core-node --data /root/core token create --uses 1 --write 'cam/*' --read '**' --json |
    sed 's/.*"token": *"\([^"]*\)".*/\1/')
  mkdir -p /root/agent
  in_space device edge-agent --data /root/agent join "$token" --name device
}
