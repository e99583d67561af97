/** Fits own adapters in a process, because ending a thread in native code would end the backend. */
import type { ServiceError } from "../../../shared/errors.ts";
import { unavailable } from "../../engine/refusals.ts";
import { ForkedProcess } from "../forked-process.ts";
import type { FitAnswer, FitFolders, ToFitter } from "./fit-process.ts";
import type { FitRequest, FitResult } from "./fitter.ts";
import { cancelled } from "./making-queue.ts";

/** The longest fit takes a minute, and two may run at once. */
const fitMs = 240_000;
/** An idle process ends after this time, because it holds the model's head in fp32. */
export const idleMs = 60_000;

interface FitClientParts {
  environment: NodeJS.ProcessEnv;
  script?: URL;
  fitMs?: number;
}

type FitterProcess = ForkedProcess<ToFitter, FitAnswer>;

export class FitClient {
  readonly #folders: FitFolders;
  readonly #parts: FitClientParts;
  #process: FitterProcess | null = null;
  readonly #pending = new Map<number, PromiseWithResolvers<FitResult>>();
  #fits = 0;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(folders: FitFolders, parts: FitClientParts) {
    this.#folders = folders;
    this.#parts = parts;
  }

  get pid(): number | null {
    return this.#process?.pid ?? null;
  }

  /** Rejects with `cancelled` on abort, with `backend_unavailable` after a timeout or the end of the process. */
  async fit(request: FitRequest, signal: AbortSignal): Promise<FitResult> {
    if (this.#isClosed) throw closed();
    if (signal.aborted) throw cancelled(signal);
    this.#process ??= this.#start();
    const id = this.#fits++;
    const pending = Promise.withResolvers<FitResult>();
    this.#pending.set(id, pending);
    this.#process.send({ id, request });
    if (this.#pending.size === 1) this.#watch();
    const leave = () => {
      this.#process?.send({ id, request: null });
      this.#remove(id)?.reject(cancelled(signal));
    };
    signal.addEventListener("abort", leave);
    try {
      return await pending.promise;
    } finally {
      signal.removeEventListener("abort", leave);
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#drop(closed());
  }

  #remove(id: number): PromiseWithResolvers<FitResult> | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    this.#watch();
    return pending;
  }

  #watch(): void {
    clearTimeout(this.#timer);
    if (!this.#process) return;
    const isIdle = this.#pending.size === 0;
    const limitMs = isIdle ? idleMs : (this.#parts.fitMs ?? fitMs);
    const giveUp = () => void this.#drop(unavailable(`Making the adapter took longer than ${limitMs} ms.`));
    this.#timer = setTimeout(giveUp, limitMs).unref();
  }

  async #drop(error: ServiceError): Promise<void> {
    clearTimeout(this.#timer);
    const dropped = this.#process;
    this.#process = null;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    await dropped?.close();
  }

  #start(): FitterProcess {
    const started: FitterProcess = new ForkedProcess({
      script: this.#parts.script ?? new URL("./fit-process.ts", import.meta.url),
      argument: JSON.stringify(this.#folders),
      environment: this.#parts.environment,
      // Fits of a dropped process have been rejected by `#drop`.
      onMessage: (answer) => {
        const pending = started === this.#process ? this.#remove(answer.id) : undefined;
        if (answer.ok) pending?.resolve(answer.result);
        else pending?.reject(new Error(answer.message));
      },
      onEnd: ({ how }) => {
        if (started === this.#process) void this.#drop(unavailable(`The process that makes adapters ${how}.`));
      },
    });
    started.unref();
    return started;
  }
}

function closed(): ServiceError {
  return unavailable("The backend is shutting down.");
}
