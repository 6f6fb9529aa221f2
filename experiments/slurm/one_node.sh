#!/usr/bin/env bash
# Makes this machine a Slurm cluster with one node, to test the scripts in this directory. Needs Debian or Ubuntu, and root;
# replaces /etc/slurm/slurm.conf. `scontrol shutdown` stops the cluster.
set -euo pipefail
apt-get update -qq
apt-get install -y -qq slurm-wlm munge >/dev/null
host=$(hostname -s)
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=one_node
SlurmctldHost=$host
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
StateSaveLocation=/var/spool/slurm/controller
SlurmdSpoolDir=/var/spool/slurm/node
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName=$host CPUs=$(nproc)
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE
CONF
install -d /var/spool/slurm /var/spool/slurm/controller /var/spool/slurm/node /var/log/slurm
install -d -o munge -g munge -m 755 /run/munge
pgrep -x munged >/dev/null || runuser -u munge -- munged
pgrep -x slurmctld >/dev/null && scontrol shutdown && sleep 3
slurmctld
slurmd
for _ in $(seq 30); do
    sinfo --noheader --format=%T | grep -q idle && break
    sleep 1
done
sinfo
