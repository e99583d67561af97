/** A thread in place of the engine's, which does what its settings say instead of the work. */
import { spawnSync } from "node:child_process";
import { parentPort, workerData } from "node:worker_threads";

const port = parentPort!;
/** `then` is what follows a request. */
const { then, isEngine } = workerData as { then: "wait" | "block" | "throw" | "answer"; isEngine?: boolean };

if (isEngine) port.postMessage({ type: "ready", info: { manifestHash: "a".repeat(64), manifest: { centroids: [] } } });
port.on("message", (message: { type?: string; sequences?: { id: string }[] }) => {
  if (message.type === "cancel") return;
  if (message.type === "stop") port.close();
  else if (then === "throw") throw new Error("the step failed");
  else if (then === "block") spawnSync("sleep", ["7"]);
  else if (then === "wait") Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  else {
    const report = { phase: "decode", ms: 1, sequences: 1, tokens: 1, sampledTokens: 1 };
    port.postMessage({ type: "frames", frames: [], report, stats: {} });
  }
});
