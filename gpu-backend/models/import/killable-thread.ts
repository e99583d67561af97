/** Runs untrusted work in a worker thread with time and memory limits. */
import { Worker } from "node:worker_threads";

interface ThreadLimits {
  seconds: number;
  megabytes: number;
}

/**
 * Runs `script` with `data` as its workerData and resolves with the first message that it posts. Rejects with what the script
 * throws, or with an Error that names the exceeded limit.
 */
export async function runInThread<T>(script: URL, data: unknown, { seconds, megabytes }: ThreadLimits): Promise<T> {
  const worker = new Worker(script, {
    workerData: data,
    resourceLimits: { maxOldGenerationSizeMb: megabytes },
    // Keeps warnings of libraries out of the command's output.
    stdout: true,
    stderr: true,
  });
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const timer = setTimeout(() => reject(new Error(`it takes more than ${seconds} s`)), seconds * 1000);
  worker.on("message", resolve);
  worker.on("error", (error: NodeJS.ErrnoException) => {
    const isFull = error.code === "ERR_WORKER_OUT_OF_MEMORY";
    reject(isFull ? new Error(`it takes more than ${megabytes} MB of memory`) : error);
  });
  worker.on("exit", (code) => reject(new Error(`its thread ended with ${code}`)));
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    await worker.terminate();
  }
}
