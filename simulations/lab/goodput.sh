# What daemons and rsync make of one link after the other; LINKS holds one a line: NAME KBIT RTT_MS LOSS_PERCENT BYTES LIMIT_S.
# Each figure is one line:
#   LAB-FIGURE link who bytes time arrived arrived_at_5_s time_after_5_s round_trip_ms status
# Times are hundredths of a second. What arrived counts with all headers, from the first bytes that are more than a greeting.

# watch_arrival LIMIT_S PID: follows a sender until it ends; sets seconds, total, early, late.
watch_arrival() {
  within=$(($1 * 100)); base=$(arrived); begun=; early=0; five=
  while [ -d "/proc/$2" ]; do
    at=$(now); got=$(($(arrived) - base))
    if [ -z "$begun" ]; then
      if [ $got -gt 60000 ]; then begun=$at; base=$((base + got)); fi
    else
      if [ -z "$five" ] && [ $((at - begun)) -ge 500 ]; then five=$at; early=$got; fi
      [ $((at - begun)) -lt $within ] || { kill "$2"; break; }
    fi
    sleep 0.1
  done
  end=$(now); total=$(($(arrived) - base)); : "${begun:=$end}"
  : "${five:=$end}"
  seconds=$((end - begun)); late=$((end - five))
}

figure() { # link who bytes sender...
  link=$1 sent=$3 patience=$4; by=$2; shift 4
  { exec /bin/ip netns exec device ping -q -i 0.5 10.9.3.2 >/root/ping 2>&1; } & pinging=$!
  "$@" >/root/out 2>&1 & sender=$!
  watch_arrival "$patience" $sender
  wait $sender; status=$?
  kill -INT $pinging; wait $pinging
  trip=$(sed -n 's|.*= [0-9.]*/\([0-9.]*\)/.*|\1|p' /root/ping)
  [ $status -eq 0 ] || { [ $status -gt 128 ] || tail -n 3 /root/out; }
  if [ $status -ne 0 ]; then
    # What came by the limit: as a file where it grows in place, else what is left without headers, at most.
    sent=$(stat -c %s /root/in/* 2>/dev/null || echo $((total * 95 / 100)))
  fi
  echo "LAB-FIGURE $link $by $sent $seconds $total $early $late ${trip:-0} $status"
}

# These two take the place of the shell that runs them in the background, so that its number is theirs.
send_agent() { exec /bin/ip netns exec device edge-agent --data /root/agent sync --once --json; }
send_rsync() { exec /bin/ip netns exec device rsync --whole-file --inplace "$1" rsync://10.9.3.2/in/; }

set_controller() { printf '[core]\ncongestion = "%s"\n' "$1" >/root/agent/agent.toml; }

make_links
shape 1000000 1 0
start_core && join_device || exit 1
printf 'uid = 0\ngid = 0\nuse chroot = no\n[in]\npath = /root/in\nread only = no\n' >/root/rsyncd.conf
mkdir /root/in
in_space core rsync --daemon --no-detach --config=/root/rsyncd.conf --log-file=/root/rsyncd.log &
turn=0
while read -r name kbit rtt loss bytes limit <&3; do
  [ -n "$name" ] || continue
  for who in $CONTROLLERS rsync; do
    turn=$((turn + 1)); folder=/root/data$turn
    mkdir $folder; head -c "$bytes" /dev/urandom >$folder/noise.bin
    sleep 2.5
    if [ $who = rsync ]; then
      shape $kbit $rtt $loss
      figure "$name" $who "$bytes" "$limit" send_rsync $folder/noise.bin
      rm -f /root/in/*
    else
      set_controller $who
      edge-agent --data /root/agent publish $folder --dataset cam/data$turn >/dev/null || exit 1
      shape $kbit $rtt $loss
      figure "$name" $who "$bytes" "$limit" send_agent
      edge-agent --data /root/agent remove cam/data$turn >/dev/null
    fi
    shape 1000000 1 0
    rm -r $folder
  done
done 3<<LINKS_END
$LINKS
LINKS_END
