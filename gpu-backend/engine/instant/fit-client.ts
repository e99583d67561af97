/** The fitter as the main thread sees it: its thread starts with the first fit, and again after it died. */
import { Worker } from "node:worker_threads";
import { ServiceError } from "../../../shared/errors.ts";
import type { FitAnswer, FitFolders } from "./fit-worker.ts";
import type { FitRequest, FitResult } from "./fitter.ts";

/** Fits waiting or running; each takes about a second, and a caller waits no longer than some. */
const maximumFits = 8;

export class FitClient {
  readonly #folders: FitFolders;
  #worker: Worker | null = null;
  /** In the order of their requests. */
  readonly #waiting: PromiseWithResolvers<FitResult>[] = [];

  constructor(folders: FitFolders) {
    this.#folders = folders;
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

  fit(request: FitRequest): Promise<FitResult> {
    this.requireRoom();
    const waiting = Promise.withResolvers<FitResult>();
    this.#waiting.push(waiting);
    this.#worker ??= this.#start();
    this.#worker.postMessage(request);
    return waiting.promise;
  }

  async close(): Promise<void> {
    await this.#worker?.terminate();
  }

  #start(): Worker {
    const worker = new Worker(new URL("./fit-worker.ts", import.meta.url), {
      workerData: this.#folders,
    });
    let failure: unknown = new Error("the fitter's thread ended");
    worker.on("message", (answer: FitAnswer) => {
      const waiting = this.#waiting.shift();
      if (answer.ok) waiting?.resolve(answer.result);
      else waiting?.reject(new Error(answer.message));
    });
    worker.on("error", (error) => {
      failure = error;
    });
    worker.on("exit", () => {
      this.#worker = null;
      for (const waiting of this.#waiting.splice(0)) waiting.reject(failure);
    });
    // It keeps no process alive that has nothing else to do.
    worker.unref();
    return worker;
  }
}
