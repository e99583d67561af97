/**
 * The backend's interface to the fitter, whose process starts with a fit, ends when it is idle, and is started again by the
 * next fit. A process, not a thread: to end a thread amid native code would end the backend, too.
 */
import { type ChildProcess, fork } from "node:child_process";
import { ServiceError } from "../../../shared/errors.ts";
import { settlesWithin } from "../../../shared/settles-within.ts";
import { unavailable } from "../refusals.ts";
import { stopMs } from "../supervisor.ts";
import type { FitAnswer, FitFolders } from "./fit-process.ts";
import type { FitRequest, FitResult } from "./fitter.ts";

/** Maximum fits waiting or running; each takes about a second, and callers wait a few seconds at most. */
const maximumFits = 8;
/** Timeout of one fit, the process's start included, in milliseconds. The fit of a wide base takes tens of seconds. */
const fitMs = 60_000;
/**
 * The process ends after so many milliseconds without a fit: it holds the model's head in fp32 (GPT-2 124M: .3 GB), which the
 * next fit reads again in seconds.
 */
export const idleMs = 60_000;

interface FitClientParts {
  /** Environment of the process. */
  environment: NodeJS.ProcessEnv;
  /** Script of the process; the fitter's by default. */
  script?: URL;
  fitMs?: number;
}

export class FitClient {
  readonly #folders: FitFolders;
  readonly #parts: FitClientParts;
  #child: ChildProcess | null = null;
  /** Pending fits, in the order of their requests. */
  readonly #waiting: PromiseWithResolvers<FitResult>[] = [];
  /** Timeout of the running fit or, without one, of the idle process. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isClosed = false;

  constructor(folders: FitFolders, parts: FitClientParts) {
    this.#folders = folders;
    this.#parts = parts;
  }

  /** The fitter's process; null while there is none. */
  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  /** Throws `overloaded` when the maximum number of fits is pending, and `backend_unavailable` after `close`. */
  requireRoom(): void {
    if (this.#isClosed) throw closed();
    if (this.#waiting.length < maximumFits) return;
    throw new ServiceError(
      "overloaded",
      `${this.#waiting.length} adapters are being made, the maximum is ${maximumFits}.`,
      {
        retryAfterSeconds: maximumFits,
      },
    );
  }

  /** Rejects with `backend_unavailable` when the fit times out, its process ends or the backend shuts down. */
  fit(request: FitRequest): Promise<FitResult> {
    this.requireRoom();
    this.#child ??= this.#start();
    const waiting = Promise.withResolvers<FitResult>();
    this.#waiting.push(waiting);
    // Where the process has just ended, or was not created, that fails the fit.
    if (this.#child.connected) this.#child.send(request, () => {});
    if (this.#waiting.length === 1) this.#watch(this.#child);
    return waiting.promise;
  }

  /** Kills the process, fails all fits, and refuses new ones. Resolves when it has ended, or after `stopMs`. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const ending = this.#drop(closed());
    if (ending !== null) await settlesWithin(ending, stopMs);
  }

  /** Restarts the timeout for the next answer of `child` or, when none is due, for its being idle. */
  #watch(child: ChildProcess): void {
    clearTimeout(this.#timer);
    if (child !== this.#child) return;
    const isIdle = this.#waiting.length === 0;
    const limitMs = isIdle ? idleMs : (this.#parts.fitMs ?? fitMs);
    // No fit waits for an idle process, so none is failed.
    const giveUp = () => void this.#drop(unavailable(`Making the adapter took longer than ${limitMs} ms.`));
    this.#timer = setTimeout(giveUp, limitMs).unref();
  }

  /** Ends the process and fails all fits. The next fit starts another process. Resolves when it has ended. */
  #drop(error: unknown): Promise<void> | null {
    clearTimeout(this.#timer);
    const child = this.#child;
    this.#child = null;
    for (const waiting of this.#waiting.splice(0)) waiting.reject(error);
    if (!child || child.exitCode !== null || child.signalCode !== null) return null;
    const ended = new Promise<void>((resolve) => void child.once("exit", () => resolve()));
    child.kill("SIGKILL");
    return ended;
  }

  #start(): ChildProcess {
    const child = fork(
      this.#parts.script ?? new URL("./fit-process.ts", import.meta.url),
      [JSON.stringify(this.#folders)],
      {
        env: this.#parts.environment,
        serialization: "advanced",
        stdio: ["ignore", 2, 2, "ipc"],
      },
    );
    // A backend that exits takes its fitter with it, also one amid a fit.
    const kill = () => void child.kill("SIGKILL");
    process.once("exit", kill);
    child.on("message", (answer: FitAnswer) => {
      // The fits of a dropped process have already been rejected.
      if (child !== this.#child) return;
      const waiting = this.#waiting.shift();
      this.#watch(child);
      if (answer.ok) waiting?.resolve(answer.result);
      else waiting?.reject(new Error(answer.message));
    });
    const failed = (how: string) => {
      if (child === this.#child) void this.#drop(unavailable(`The process that makes adapters ${how}.`));
    };
    child.on("error", (error) => {
      process.off("exit", kill);
      failed(`cannot be started: ${error.message}`);
    });
    child.on("exit", (code, signal) => {
      process.off("exit", kill);
      failed(signal ? `was ended by ${signal}` : `ended with code ${code}`);
    });
    // The process does not keep the backend alive.
    child.unref();
    child.channel?.unref();
    return child;
  }
}

function closed(): ServiceError {
  return unavailable("The backend is shutting down.");
}
