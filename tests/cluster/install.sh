#!/bin/sh
# What the tests in this folder need, from Debian's or Ubuntu's own archive: the programs of a Slurm. The tests start a cluster of their own
# with them, and need neither root nor the packages' services. Where this cannot install them it says so, and the tests are skipped.
set -eu
complete=yes
for program in munged slurmctld slurmd sbatch setpriv; do
  PATH="$PATH:/usr/sbin" command -v "$program" > /dev/null || complete=no
done
if [ "$complete" = yes ]; then exit 0; fi
if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
  echo "Slurm is not installed, which needs apt-get and root: the tests in tests/cluster will be skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends slurm-wlm munge util-linux
