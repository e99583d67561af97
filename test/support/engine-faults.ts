/**
 * Loaded into a backend with `NODE_OPTIONS=--import`: lets the engine over the set of artifacts ENGINE_FAULT_SET fail at its
 * start as ENGINE_FAULT says, and every engine throw in its next run of a session after SIGUSR2.
 */
import path from "node:path";

const { ENGINE_FAULT, ENGINE_FAULT_SET } = process.env;
// An engine's process has the folder of its set as an argument.
const [, script = "", folder = ""] = process.argv;

if (ENGINE_FAULT && ENGINE_FAULT_SET && folder.includes(ENGINE_FAULT_SET)) {
  process.stderr.write(`engine-faults: ${ENGINE_FAULT}\n`);
  if (ENGINE_FAULT === "hang") Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  if (ENGINE_FAULT === "throw") throw new Error("injected");
  process.kill(process.pid, ENGINE_FAULT);
}

if (path.dirname(script).endsWith("engine")) {
  const { InferenceSession } = await import("onnxruntime-node");
  const { prototype } = InferenceSession as unknown as { prototype: { run(...args: unknown[]): Promise<unknown> } };
  process.once("SIGUSR2", () => {
    prototype.run = () => Promise.reject(new Error("injected: the run failed"));
  });
}
