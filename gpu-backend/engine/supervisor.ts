/**
 * Keeps an engine running in a child process: passes messages both ways, and starts the process again, with a growing delay,
 * when it fails. A native fault, a hang or a lack of memory therefore ends only the engine's process. Not here: sequences
 * (client.ts), and what the process does (process.ts).
 */
import { type ChildProcess, fork } from "node:child_process";
import { settlesWithin } from "../../shared/settles-within.ts";
import type { EngineInfo, EngineSettings, FromEngine, ToEngine } from "./messages.ts";
import { unavailable } from "./refusals.ts";

/** Milliseconds for an engine to load its model and generate a token; a large model is read from a slow disk in minutes. */
export const startMs = 600_000;
/** Milliseconds before the first restart: no more than it takes to load a small model, since most faults do not come back. */
export const firstRestartMs = 250;
/** The delay doubles with each failure up to this, in milliseconds: a fault that stays must not keep the machine busy loading. */
const mostRestartMs = 30_000;
/** An engine that has run this long, in milliseconds, was healthy: its failure counts as a first one. More than `mostRestartMs`. */
export const stableMs = 60_000;
/** Timeout for a killed process to end, in milliseconds: one that waits for a device or a disk ends only after that. */
export const stopMs = 2000;

/** What the supervisor itself does not handle. */
export type EngineMessage = Exclude<FromEngine, { type: "ready" | "failed" }>;

/** An unexpected end of an engine's process. */
export interface EngineFailure {
  /** Of the set that it serves. */
  manifestHash: string;
  /** A phrase that tells nothing of a request: "was ended by SIGSEGV". */
  how: string;
  /** What it threw, if that was the end. For the log alone: it may tell of a request. */
  error: Error | null;
  /** Failures in a row, this one included. */
  failures: number;
  /** Milliseconds until it is started again. */
  restartMs: number;
}

export interface SupervisorObserver {
  /** The process `pid` has generated a token: at first, and after each restart. */
  engineReady(info: EngineInfo, pid: number): void;
  engineFailed(failure: EngineFailure): void;
}

interface SupervisorParts {
  observer: SupervisorObserver;
  /** A monotonic clock, in milliseconds. */
  now(): number;
  /** Environment of the process. */
  environment: NodeJS.ProcessEnv;
  /** Script of the process; the engine's by default. */
  script?: URL;
  onMessage(message: EngineMessage): void;
  /** The process has ended: what it was working on is lost. */
  onEnd(): void;
}

/** Milliseconds between the failure number `failures` in a row and the restart. */
function restartDelayMs(failures: number): number {
  return Math.min(mostRestartMs, firstRestartMs * 2 ** (failures - 1));
}

export class EngineSupervisor {
  readonly #settings: EngineSettings;
  readonly #parts: SupervisorParts;
  readonly #first = Promise.withResolvers<EngineInfo>();
  #child: ChildProcess | null = null;
  /** Resolves when the process that was started last has ended. */
  #ended: Promise<void> = Promise.resolve();
  #info: EngineInfo | null = null;
  #isRunning = false;
  /** Time at which the process that was started last got ready; null if it has not. */
  #readyMs: number | null = null;
  /** Why the process failed or was killed; null if unknown. */
  #cause: { how: string; error: Error | null } | null = null;
  #failure: EngineFailure | null = null;
  #isClosed = false;
  /** Until the restart, or until a start takes too long. */
  #timer: NodeJS.Timeout | undefined;
  /** A parent that exits takes its engine with it, also one that hangs. */
  readonly #killAtExit = () => void this.#child?.kill("SIGKILL");

  constructor(settings: EngineSettings, parts: SupervisorParts) {
    this.#settings = settings;
    this.#parts = parts;
    process.on("exit", this.#killAtExit);
    // Only the code that starts the engine awaits this promise.
    this.#first.promise.catch(() => {});
    this.#start();
  }

  /** Resolves once a token has been generated; rejects if the engine does not start the first time. Then nothing is tried again. */
  get first(): Promise<EngineInfo> {
    return this.#first.promise;
  }

  /** What is served, also during a restart; null before the first token. */
  get info(): EngineInfo | null {
    return this.#info;
  }

  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** Returns what is served. Throws `backend_unavailable`, and says why, while no engine runs. */
  requireRunning(): EngineInfo {
    if (this.#info && this.#isRunning) return this.#info;
    const last = this.#cause ?? this.#failure;
    throw unavailable(last ? `The engine is restarting: it ${last.how}.` : "The engine is starting.");
  }

  send(message: ToEngine): void {
    // Where the process has just ended, or was not started, `onEnd` follows.
    if (this.#child?.connected) this.#child.send(message, () => {});
  }

  /** Ends a process that cannot go on; `how` is what the failure says of it. `onEnd` follows. */
  kill(how: string): void {
    this.#isRunning = false;
    this.#cause ??= { how, error: null };
    this.#child?.kill("SIGKILL");
  }

  /** Kills the process for good. Resolves when it has ended, or after `stopMs`. */
  async close(): Promise<void> {
    this.#isClosed = true;
    process.off("exit", this.#killAtExit);
    clearTimeout(this.#timer);
    this.kill("was closed");
    await settlesWithin(this.#ended, stopMs);
  }

  #start(): void {
    this.#cause = null;
    this.#readyMs = null;
    const child = this.#fork();
    if (!child) return;
    this.#child = child;
    const ended = Promise.withResolvers<void>();
    this.#ended = ended.promise;
    const onEnd = (exit: string) => {
      if (this.#child !== child) return;
      this.#onEnd(exit);
      ended.resolve();
    };
    child.on("message", (message: FromEngine) => this.#onMessage(message, child));
    child.on("error", (error) => {
      const how = `cannot be started: ${error.message}`;
      this.#cause ??= { how, error };
      // A process that was not created, for want of file descriptors, closes nothing.
      if (child.pid === undefined) onEnd(how);
    });
    // Not "exit": messages may follow that.
    child.on("close", (code, signal) => onEnd(signal ? `was ended by ${signal}` : `ended with code ${code}`));
    this.send({ type: "start", settings: this.#settings });
    this.#timer = setTimeout(() => this.kill(`did not start within ${startMs / 1000} s`), startMs);
  }

  /** null where the system has no memory for one more process: it is tried again like after any failure. */
  #fork(): ChildProcess | null {
    const { script = new URL("./process.ts", import.meta.url), environment } = this.#parts;
    try {
      // The argument is for whoever looks at the list of processes. stdout is the parent's alone.
      return fork(script, [this.#settings.artifactsDirectory], {
        env: environment,
        serialization: "advanced",
        stdio: ["ignore", 2, 2, "ipc"],
      });
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      this.#cause = { how: `cannot be started: ${error.message}`, error };
      // Not now: the constructor may be running.
      setImmediate(() => this.#onEnd("cannot be started"));
      return null;
    }
  }

  #onMessage(message: FromEngine, child: ChildProcess): void {
    if (message.type === "failed") {
      this.#cause ??= { how: "ended in an error", error: Object.assign(new Error(message.message), message) };
    } else if (message.type === "ready") this.#onReady(message.info, child.pid!);
    else this.#parts.onMessage(message);
  }

  #onReady(info: EngineInfo, pid: number): void {
    clearTimeout(this.#timer);
    if (this.#cause) return;
    if (this.#info && this.#info.manifestHash !== info.manifestHash) {
      this.kill("found other artifacts in its folder than at the first start");
      return;
    }
    this.#info = info;
    this.#isRunning = true;
    this.#readyMs = this.#parts.now();
    this.#first.resolve(info);
    this.#parts.observer.engineReady(info, pid);
  }

  #onEnd(exit: string): void {
    const { observer, now, onEnd } = this.#parts;
    clearTimeout(this.#timer);
    const { how, error } = this.#cause ?? { how: exit, error: null };
    this.#child = null;
    this.#isRunning = false;
    if (!this.#info) {
      this.#isClosed = true;
      this.#first.reject(error ?? new Error(`the engine ${how} before it was ready`));
    }
    if (!this.#isClosed) {
      const wasStable = this.#readyMs !== null && now() - this.#readyMs >= stableMs;
      const failures = wasStable ? 1 : (this.#failure?.failures ?? 0) + 1;
      const restartMs = restartDelayMs(failures);
      this.#failure = { manifestHash: this.#info!.manifestHash, how, error, failures, restartMs };
      this.#timer = setTimeout(() => this.#start(), restartMs);
      observer.engineFailed(this.#failure);
    }
    onEnd();
  }
}
