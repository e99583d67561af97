/** The main thread's interface to the fitter, whose thread starts with a fit, ends when idle, and restarts after a failure. */
import { Worker } from "node:worker_threads";
import { ServiceError } from "../../../shared/errors.ts";
import { settlesWithin } from "../../../shared/settles-within.ts";
import { unavailable } from "../refusals.ts";
import type { FitAnswer, FitFolders } from "./fit-worker.ts";
import type { FitRequest, FitResult } from "./fitter.ts";

/** Maximum fits waiting or running; each takes about a second, and callers wait a few seconds at most. */
const maximumFits = 8;
/** Timeout of one fit, the thread's start included, in milliseconds. The fit of a wide base takes tens of seconds. */
const fitMs = 60_000;
/**
 * The thread ends after so many milliseconds without a fit: it holds a model file and the head in fp32 (GPT-2 124M: half a
 * gigabyte), which the next fit reads again in seconds.
 */
export const idleMs = 60_000;
/** Timeout for the thread to end, in milliseconds. */
const stopMs = 2000;

interface FitClientParts {
  /** Script of the worker thread; the fitter's by default. */
  thread?: URL;
  fitMs?: number;
}

export class FitClient {
  readonly #folders: FitFolders;
  readonly #parts: FitClientParts;
  #worker: Worker | null = null;
  /** Pending fits, in the order of their requests. */
  readonly #waiting: PromiseWithResolvers<FitResult>[] = [];
  /** Timeout of the running fit or, without one, of the idle thread. */
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(folders: FitFolders, parts: FitClientParts = {}) {
    this.#folders = folders;
    this.#parts = parts;
  }

  /** Throws `overloaded` when the maximum number of fits is pending. */
  requireRoom(): void {
    if (this.#waiting.length < maximumFits) return;
    throw new ServiceError(
      "overloaded",
      `${this.#waiting.length} adapters are being made, the maximum is ${maximumFits}.`,
      {
        retryAfterSeconds: maximumFits,
      },
    );
  }

  /** Rejects with `backend_unavailable` when the fit times out or the backend shuts down. */
  fit(request: FitRequest): Promise<FitResult> {
    this.requireRoom();
    const waiting = Promise.withResolvers<FitResult>();
    this.#waiting.push(waiting);
    this.#worker ??= this.#start();
    this.#worker.postMessage(request);
    if (this.#waiting.length === 1) this.#watch(this.#worker);
    return waiting.promise;
  }

  /** Resolves to true if the thread has ended. */
  async close(): Promise<boolean> {
    const ending = this.#drop(unavailable("The backend is shutting down."));
    return ending === null || settlesWithin(ending, stopMs);
  }

  /** Restarts the timeout for the next answer of `worker` or, when none is due, for its being idle. */
  #watch(worker: Worker): void {
    clearTimeout(this.#timer);
    if (worker !== this.#worker) return;
    const isIdle = this.#waiting.length === 0;
    const limitMs = isIdle ? idleMs : (this.#parts.fitMs ?? fitMs);
    // No fit waits for an idle thread, so none is failed.
    const giveUp = () => void this.#drop(unavailable(`Making the adapter took longer than ${limitMs} ms.`));
    this.#timer = setTimeout(giveUp, limitMs).unref();
  }

  /** Ends the thread and fails all fits. The next fit starts another thread. */
  #drop(error: unknown): Promise<unknown> | null {
    clearTimeout(this.#timer);
    const worker = this.#worker;
    this.#worker = null;
    for (const waiting of this.#waiting.splice(0)) waiting.reject(error);
    return worker?.terminate() ?? null;
  }

  #start(): Worker {
    const worker = new Worker(this.#parts.thread ?? new URL("./fit-worker.ts", import.meta.url), {
      workerData: this.#folders,
    });
    let failure: unknown = new Error("the fitter's thread ended");
    worker.on("message", (answer: FitAnswer) => {
      // The fits of a dropped thread have already been rejected.
      if (worker !== this.#worker) return;
      const waiting = this.#waiting.shift();
      this.#watch(worker);
      if (answer.ok) waiting?.resolve(answer.result);
      else waiting?.reject(new Error(answer.message));
    });
    worker.on("error", (error) => {
      failure = error;
    });
    worker.on("exit", () => {
      if (worker === this.#worker) void this.#drop(failure);
    });
    // The thread does not keep the process alive.
    worker.unref();
    return worker;
  }
}
