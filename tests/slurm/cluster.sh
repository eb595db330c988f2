#!/usr/bin/env bash
# A SLURM of two nodes on this machine, from distribution packages: to try launcher=slurm, and for tests/slurm.
#
#   tests/slurm/cluster.sh start      as root, on Debian or Ubuntu; prints the line that points a shell to it
#   tests/slurm/cluster.sh stop       ends it and its jobs, and leaves nothing behind but the packages
#
# Its nodes n1 and n2 are two slurmd of this machine, with 4 CPUs each whatever the machine has. It has its own
# folder, key, sockets and ports, and leaves a SLURM that is here already alone. There is no accounting (it
# needs a database server), so `sacct` fails, as on many small clusters: squeue and scontrol work.
set -euo pipefail

folder=${DREAMBOOTH_CLUSTER:-/var/tmp/dreambooth-cluster}
export SLURM_CONF=$folder/slurm.conf
hosts_line='127.0.0.1 n1 n2 # dreambooth-cluster' # else DDP waits for ever for its master n1

start() {
    for tool in slurmctld slurmd munged; do
        command -v "$tool" >/dev/null || install_packages
    done
    stop
    mkdir -p "$folder"/{state,n1,n2}
    chmod 755 "$folder"
    grep -qF "$hosts_line" /etc/hosts || echo "$hosts_line" >>/etc/hosts
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
    configure >"$SLURM_CONF"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
    slurmctld -c
    slurmd -N n1
    slurmd -N n2
    for _ in {1..600}; do
        [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 2 ] && {
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        }
        sleep 0.1
    done
    echo "the cluster does not come up: see $folder/*.log" >&2
    exit 1
}

install_packages() {
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends slurm-wlm munge >&2
}

# cred_expire: a requeued job waits so many seconds before it may start again (120 by default, and if below 5).
configure() {
    cat <<CONF
ClusterName=dreambooth
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthInfo=socket=$folder/munge.socket,cred_expire=5
SlurmctldPort=26817
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/%n/slurmd.pid
SlurmdLogFile=$folder/%n.log
SlurmdSpoolDir=$folder/%n
StateSaveLocation=$folder/state
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
KillWait=5
MinJobAge=3600
ReturnToService=2
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=26818 CPUs=4 State=UNKNOWN
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=26819 CPUs=4 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
}

stop() {
    [ -d "$folder" ] || return 0
    if [ -e "$folder/slurmctld.pid" ] && timeout 5 scontrol ping >/dev/null 2>&1; then
        scancel --full --quiet --partition=main || true
        for _ in {1..150}; do
            [ -z "$(squeue --noheader 2>/dev/null)" ] && break
            sleep 0.1
        done
    fi
    for daemon in n1/slurmd n2/slurmd slurmctld munged; do
        end "$folder/$daemon.pid"
    done
    # In place: /etc/hosts of a container cannot be replaced by another file.
    grep -vF "$hosts_line" /etc/hosts >"$folder/hosts" || true
    cat "$folder/hosts" >/etc/hosts
    rm -rf "$folder"
}

end() {
    local process
    process=$(cat "$1" 2>/dev/null) || return 0
    kill "$process" 2>/dev/null || return 0
    for _ in {1..100}; do
        kill -0 "$process" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 "$process" 2>/dev/null || true
}

case ${1:-} in
start | stop) "$1" ;;
*)
    grep '^#   ' "$0" >&2
    exit 2
    ;;
esac
