#!/bin/bash
# One job of the project on a Slurm allocation, on a Ray that lives as long as the allocation:
#
#   sbatch cluster/slurm.sh train_decoder --config configs/train_default.yaml \
#     data.train=/shared/cache run=/shared/runs/voice cluster.num_workers=16
#
# Submit it from the checkout after `make setup`; checkout and paths must lie on a file system that
# all nodes share. Before the time is up the job is told to save, queued again, and goes on in its
# folder. Change the lines below; each node keeps a CPU beside its train workers.
#SBATCH --job-name=ttt-speech
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
export PATH="$PWD/.venv/bin:$PATH"

job=$1
shift
python -m "ray_jobs.$job" "$@" --print-config > /dev/null  # a misspelt key ends here

# A token for this allocation alone, readable by its owner alone.
token="$HOME/.ray/slurm-$SLURM_JOB_ID.token"
(
  umask 077
  mkdir -p "$HOME/.ray"
  python -c 'import secrets; print(secrets.token_hex(32))' > "$token"
)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token"

# Ports of this allocation: others may share its nodes. Ray's workers take 10002 to 19999.
port=$((20000 + SLURM_JOB_ID % 1200 * 10))
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# This script runs on the first node; the others must not be told a loopback address of it.
ip=$(getent ahostsv4 "${nodes[0]}" | awk '$1 !~ /^127\./ && !seen++ {print $1}')
address="${ip:-$(hostname -I | awk '{print $1}')}:$port"

on() {  # on NODE COMMAND...: a process of Ray there, with all that the job has of the node
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" --cpus-per-task="$SLURM_CPUS_PER_TASK" "${@:2}" &
  daemons+=($!)
}

daemons=()
finish() {
  kill "${daemons[@]}" 2> /dev/null || true
  rm -f "$token"
}
trap finish EXIT

resources=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")
ports=(--dashboard-agent-listen-port=$((port + 1)) --disable-usage-stats --block)
on "${nodes[0]}" ray start --head --node-ip-address="${address%:*}" --port="$port" \
  --dashboard-host=127.0.0.1 --dashboard-port=$((port + 2)) \
  --ray-client-server-port=$((port + 3)) "${resources[@]}" "${ports[@]}"
for node in "${nodes[@]:1}"; do
  on "$node" ray start --address="$address" "${resources[@]}" "${ports[@]}"
done

python - "$address" "${#nodes[@]}" << 'END'
"""Wait for all nodes, so that the job counts every CPU."""
import subprocess, sys, time
address, wanted = sys.argv[1], int(sys.argv[2])
deadline = time.monotonic() + 300
while subprocess.run(["ray", "health-check", "--address", address], capture_output=True).returncode:
    if time.monotonic() > deadline:
        sys.exit(f"error: no Ray head answers at {address} after 5 minutes; see the log above")
    time.sleep(2)
import ray
ray.init(address, log_to_driver=False, logging_level="warning")
while (up := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > deadline:
        sys.exit(f"error: only {up} of {wanted} nodes joined the Ray at {address} in 5 minutes")
    time.sleep(2)
END

resume=()
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then  # queued again
  resume=(--resume-if-begun)
fi
stopped=0
python -m "ray_jobs.$job" "$@" "${resume[@]}" --address "$address" &
driver=$!
trap 'kill -TERM $driver && stopped=1' TERM
code=0
wait $driver || code=$?
while kill -0 $driver 2> /dev/null; do  # the signal ended the first wait, not the job
  code=0
  wait $driver || code=$?
done
# Saved and left (0), or ended by the signal (143); a job that failed would only fail again.
if [ $stopped = 1 ] && { [ $code = 0 ] || [ $code = 143 ]; }; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
