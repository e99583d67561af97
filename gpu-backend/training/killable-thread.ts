/** Runs untrusted work in a worker thread with time and memory limits. */
import { Worker } from "node:worker_threads";

interface ThreadLimits {
  seconds: number;
  megabytes: number;
}

/** The message that the thread's script posts. */
export type ThreadAnswer<T> = { ok: true; result: T } | { ok: false; message: string };

/** Runs `script` with `data` as its workerData. Rejects with an Error of one line that names the exceeded limit. */
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
  worker.on("message", (answer: ThreadAnswer<T>) => {
    if (answer.ok) resolve(answer.result);
    else reject(new Error(answer.message));
  });
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
