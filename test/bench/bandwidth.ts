/**
 * How fast this machine reads memory: what bounds a decode step of one row, which reads every weight once.
 * `memcmp` over two halves of a buffer as large as the weights, one half pair per thread; the best of a few passes.
 */
import { Worker } from "node:worker_threads";

const passes = 9;

const readerSource = `
const { parentPort, workerData } = require("node:worker_threads");
const a = Buffer.alloc(workerData / 2, 1);
const b = Buffer.alloc(workerData / 2, 1);
parentPort.on("message", () => {
  const startedMs = performance.now();
  if (!a.equals(b)) throw new Error("equal buffers differ");
  parentPort.postMessage(performance.now() - startedMs);
});`;

/** Bytes per second that `threads` threads read together from a buffer of `bytes`. */
export async function readBandwidth(bytes: number, threads: number): Promise<number> {
  const share = 2 * Math.floor(bytes / threads / 2);
  const workers = Array.from({ length: threads }, () => new Worker(readerSource, { eval: true, workerData: share }));
  let best = 0;
  for (let pass = 0; pass < passes; pass++) {
    const spansMs = await Promise.all(workers.map(onePass));
    best = Math.max(best, (share * threads) / (Math.max(...spansMs) / 1000));
  }
  await Promise.all(workers.map((worker) => worker.terminate()));
  return best;
}

function onePass(worker: Worker): Promise<number> {
  return new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
    worker.postMessage("read");
  });
}
