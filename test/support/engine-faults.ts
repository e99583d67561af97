/**
 * Loaded into a backend with `NODE_OPTIONS=--import`. The URL's query may name a set of artifacts and a fault, in which the set's engine
 * starts. After SIGUSR2 every engine fails all further runs.
 */
import path from "node:path";

// Settings come by URL, because an engine inherits only the environment variables that it needs.
const { fault, set } = Object.fromEntries(new URL(import.meta.url).searchParams);
// An engine's process has the folder of its set as an argument.
const [, script = "", folder = ""] = process.argv;

if (fault && set && folder.includes(set)) {
  process.stderr.write(`engine-faults: ${fault}\n`);
  if (fault === "hang") Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  if (fault === "throw") throw new Error("injected");
  process.kill(process.pid, fault);
}

if (path.dirname(script).endsWith("engine")) {
  const { InferenceSession } = await import("onnxruntime-node");
  const { prototype } = InferenceSession as unknown as { prototype: { run(...args: unknown[]): Promise<unknown> } };
  process.once("SIGUSR2", () => {
    prototype.run = () => Promise.reject(new Error("injected: the run failed"));
  });
}
