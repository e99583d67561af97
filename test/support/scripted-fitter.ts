/** A thread in place of the fitter's, which does what `then` says instead of the work. */
import { parentPort, workerData } from "node:worker_threads";

const { then } = workerData as { then: "wait" | "throw" };
parentPort!.on("message", () => {
  if (then === "throw") throw new Error("the fit failed");
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});
