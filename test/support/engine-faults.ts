/**
 * Loaded into a backend with `NODE_OPTIONS=--import`: lets the engine over the set of artifacts ENGINE_FAULT_SET fail at its
 * start as ENGINE_FAULT says.
 */
const { ENGINE_FAULT, ENGINE_FAULT_SET } = process.env;
// An engine's process has its folder as an argument.
if (ENGINE_FAULT && ENGINE_FAULT_SET && process.argv[2]?.includes(ENGINE_FAULT_SET)) {
  process.stderr.write(`engine-faults: ${ENGINE_FAULT}\n`);
  if (ENGINE_FAULT === "hang") Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  if (ENGINE_FAULT === "throw") throw new Error("injected");
  process.kill(process.pid, ENGINE_FAULT);
}
