/** The fitter as the main thread sees it: its thread starts with the first fit, and again after it died. */
import { Worker } from "node:worker_threads";
import { ServiceError } from "../../../shared/errors.ts";
import { settlesWithin } from "../../../shared/settles-within.ts";
import { unavailable } from "../refusals.ts";
import type { FitAnswer, FitFolders } from "./fit-worker.ts";
import type { FitRequest, FitResult } from "./fitter.ts";

/** Fits waiting or running; each takes about a second, and a caller waits no longer than some. */
const maximumFits = 8;
/** Milliseconds for one fit, the thread's start included. The fit of a wide base takes tens of seconds. */
const fitMs = 60_000;
/** Milliseconds for the thread to end. */
const stopMs = 2000;

export interface FitClientParts {
  /** What runs in the thread; absent: the fitter. */
  thread?: URL;
  fitMs?: number;
}

export class FitClient {
  readonly #folders: FitFolders;
  readonly #parts: FitClientParts;
  #worker: Worker | null = null;
  /** In the order of their requests. */
  readonly #waiting: PromiseWithResolvers<FitResult>[] = [];
  /** Runs while a fit does. */
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(folders: FitFolders, parts: FitClientParts = {}) {
    this.#folders = folders;
    this.#parts = parts;
  }

  /** Throws a ServiceError "overloaded" where too many fits wait, at once. */
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

  /** Rejects with a ServiceError "backend_unavailable" where it takes too long, or the backend shuts down. */
  fit(request: FitRequest): Promise<FitResult> {
    this.requireRoom();
    const waiting = Promise.withResolvers<FitResult>();
    this.#waiting.push(waiting);
    this.#worker ??= this.#start();
    this.#worker.postMessage(request);
    if (this.#waiting.length === 1) this.#watch(this.#worker);
    return waiting.promise;
  }

  /** Resolves to whether the thread has ended. */
  async close(): Promise<boolean> {
    const ending = this.#drop(unavailable("The backend is shutting down."));
    return ending === null || settlesWithin(ending, stopMs);
  }

  /** Gives `worker` the time of one fit for its next answer. */
  #watch(worker: Worker): void {
    clearTimeout(this.#timer);
    if (this.#waiting.length === 0 || worker !== this.#worker) return;
    const limitMs = this.#parts.fitMs ?? fitMs;
    const giveUp = () => void this.#drop(unavailable(`Making the adapter took longer than ${limitMs} ms.`));
    this.#timer = setTimeout(giveUp, limitMs).unref();
  }

  /** Ends the thread and all fits; the next one starts another. */
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
      // What was given up has been answered.
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
    // It keeps no process alive that has nothing else to do.
    worker.unref();
    return worker;
  }
}
