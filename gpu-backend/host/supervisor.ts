/** Keeps an engine running in a child process. */
import type { EngineInfo, EngineSettings, FromEngine, ToEngine } from "../engine/messages.ts";
import { unavailable } from "../engine/refusals.ts";
import { type EndCause, ForkedProcess } from "./forked-process.ts";

/** Timeout of an engine's start. A slow disk takes minutes. */
export const startMs = 600_000;
/** Short, because most faults do not recur. The delay doubles with each failure in a row. */
export const firstRestartMs = 250;
const maxRestartMs = 30_000;
/** A failure after more running time than this counts as the first in a row. */
export const stableMs = 60_000;

export type EngineMessage = Exclude<FromEngine, { type: "ready" | "failed" }>;

export interface EngineFailure extends EndCause {
  manifestHash: string;
  failures: number;
  restartMs: number;
}

export interface SupervisorObserver {
  engineReady(info: EngineInfo, pid: number): void;
  engineFailed(failure: EngineFailure): void;
}

export interface SupervisorParts {
  observer: SupervisorObserver;
  /** A monotonic clock, in milliseconds. */
  now(): number;
  environment: NodeJS.ProcessEnv;
  script?: URL;
  onMessage(message: EngineMessage): void;
  onEnd(): void;
}

export class EngineSupervisor {
  readonly #settings: EngineSettings;
  readonly #parts: SupervisorParts;
  readonly #first = Promise.withResolvers<EngineInfo>();
  #process: ForkedProcess<ToEngine, FromEngine>;
  /** Info of the last process that served. */
  info: EngineInfo | null = null;
  isRunning = false;
  #readyMs: number | null = null;
  #failure: EngineFailure | null = null;
  #isClosed = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(settings: EngineSettings, parts: SupervisorParts) {
    this.#settings = settings;
    this.#parts = parts;
    // Prevents an unhandled rejection. Failures are also reported to the observer.
    this.#first.promise.catch(() => {});
    this.#process = this.#start();
  }

  /** Resolves when the first process serves. Rejects if that process fails before, and no other process is started. */
  get first(): Promise<EngineInfo> {
    return this.#first.promise;
  }

  /** Throws `backend_unavailable` with the reason while no engine runs. */
  requireRunning(): EngineInfo {
    if (this.info && this.isRunning) return this.info;
    const last = this.#process.cause ?? this.#failure;
    throw unavailable(last ? `The engine is restarting: it ${last.how}.` : "The engine is starting.");
  }

  send(message: ToEngine): void {
    this.#process.send(message);
  }

  /** `how` becomes the cause (EndCause) of the process's end. */
  kill(how: string): void {
    this.isRunning = false;
    this.#process.kill(how);
  }

  /** Resolves when the process has ended, or after a timeout. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.isRunning = false;
    clearTimeout(this.#timer);
    await this.#process.close();
  }

  #start(): ForkedProcess<ToEngine, FromEngine> {
    const { script = new URL("../engine/process.ts", import.meta.url), environment } = this.#parts;
    this.#readyMs = null;
    const started = new ForkedProcess<ToEngine, FromEngine>({
      ...{ script, environment, argument: this.#settings.artifactsDirectory },
      onMessage: (message) => this.#onMessage(message),
      onEnd: (cause) => this.#onEnd(cause),
    });
    started.send({ type: "start", settings: this.#settings });
    this.#timer = setTimeout(() => this.kill(`did not start within ${startMs / 1000} s`), startMs);
    return started;
  }

  #onMessage(message: FromEngine): void {
    if (message.type === "failed") {
      this.#process.blame("ended in an error", Object.assign(new Error(message.message), message));
    } else if (message.type === "ready") this.#onReady(message.info);
    else this.#parts.onMessage(message);
  }

  #onReady(info: EngineInfo): void {
    clearTimeout(this.#timer);
    if (this.#process.cause) return;
    if (this.info && this.info.manifestHash !== info.manifestHash) {
      this.kill("found other artifacts in its folder than at the first start");
      return;
    }
    this.info = info;
    this.isRunning = true;
    this.#readyMs = this.#parts.now();
    this.#first.resolve(info);
    this.#parts.observer.engineReady(info, this.#process.pid!);
  }

  #onEnd({ how, error }: EndCause): void {
    const { observer, now, onEnd } = this.#parts;
    clearTimeout(this.#timer);
    this.isRunning = false;
    if (!this.info) {
      this.#isClosed = true;
      this.#first.reject(error ?? new Error(`the engine ${how} before it was ready`));
    }
    if (!this.#isClosed) {
      const wasStable = this.#readyMs !== null && now() - this.#readyMs >= stableMs;
      const failures = wasStable ? 1 : (this.#failure?.failures ?? 0) + 1;
      const restartMs = Math.min(maxRestartMs, firstRestartMs * 2 ** (failures - 1));
      this.#failure = { manifestHash: this.info!.manifestHash, how, error, failures, restartMs };
      this.#timer = setTimeout(() => {
        this.#process = this.#start();
      }, restartMs);
      observer.engineFailed(this.#failure);
    }
    onEnd();
  }
}
