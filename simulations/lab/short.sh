# The short form, for every run of the tests: one sync of real daemons over a lossy link, which the core then verifies.
set -e
make_links
shape 20000 40 2
start_core
join_device
mkdir /root/data
head -c 2000000 /dev/urandom >/root/data/noise.bin
sleep 3
edge-agent --data /root/agent publish /root/data --dataset cam/device
in_space device edge-agent --data /root/agent sync --once --json >/root/report
grep -q '"problems": *\[\]' /root/report || { cat /root/report; exit 1; }
in_space core core-node --data /root/core verify 2>/root/verifying
dropped=$(/bin/tc -n wire -s qdisc show dev c1 | sed -n 's/.*dropped \([0-9]*\).*/\1/p')
echo "lab: $dropped packets were lost on the way"
[ "$dropped" -gt 0 ]
