/**
 * The engine as the main thread sees it: micro-batches in, frames out, one worker thread behind. Every sequence that
 * was taken in gets its last frame, also when the thread dies. Not here: HTTP.
 */
import { Worker } from "node:worker_threads";
import { type BatchRequest, errorFrame, type Frame } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { EngineStats, PhaseReport } from "./engine.ts";
import type { EngineInfo, EngineSettings, FromEngine, ToEngine } from "./messages.ts";

/** Takes some of a micro-batch's frames, in order. */
export type FrameSink = (frames: Frame[]) => void;

export interface EngineObserver {
  phaseRan(report: PhaseReport): void;
  sequenceEnded(outcome: string): void;
}

export class EngineClient {
  readonly #worker: Worker;
  readonly #observer: EngineObserver;
  /** The sink of every sequence that has not ended, by id. */
  readonly #sinks = new Map<string, FrameSink>();
  readonly #ready = Promise.withResolvers<EngineInfo>();
  readonly #ended = Promise.withResolvers<Error | null>();
  #info: EngineInfo | null = null;
  #stats: EngineStats | null = null;
  #isClosing = false;
  #failure: Error | null = null;
  #allEnded: (() => void) | null = null;
  #messages = 0;

  constructor(settings: EngineSettings, observer: EngineObserver) {
    this.#observer = observer;
    this.#worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData: settings });
    this.#worker.on("message", (message: FromEngine) => this.#hear(message));
    this.#worker.on("error", (error) => {
      this.#failure = error instanceof Error ? error : new Error(String(error));
    });
    this.#worker.on("exit", () => this.#end());
    // Whoever starts the engine awaits this; others may not care.
    this.#ready.promise.catch(() => {});
  }

  /** Resolves once a token has been generated; rejects where the engine cannot start. */
  get ready(): Promise<EngineInfo> {
    return this.#ready.promise;
  }

  /** Resolves when the thread has ended: null where that was asked for, else the reason. */
  get ended(): Promise<Error | null> {
    return this.#ended.promise;
  }

  /** What is served; null before it is ready and after the thread has ended. */
  get info(): EngineInfo | null {
    return this.#info;
  }

  get stats(): EngineStats | null {
    return this.#stats;
  }

  /** Messages that came from the engine; each phase of a step sends one. */
  get messages(): number {
    return this.#messages;
  }

  get openSequences(): number {
    return this.#sinks.size;
  }

  /**
   * Hands a micro-batch to the engine; its frames go to `sink`. Throws a ServiceError where none of it can be served:
   * not ready or shutting down, another manifest, an unknown centroid, an id that is open already.
   */
  submit(batch: BatchRequest, sink: FrameSink): void {
    const info = this.#info;
    if (this.#isClosing) throw unavailable("The backend is shutting down.");
    if (!info) throw unavailable(this.#failure ? "The engine has failed." : "The engine is starting.");
    if (batch.manifestHash !== info.manifestHash) {
      throw new ServiceError(
        "manifest_mismatch",
        `The batch was made for manifest ${batch.manifestHash}, this backend serves ${info.manifestHash}.`,
      );
    }
    const { centroids } = info.manifest;
    if (batch.centroidId !== null && !centroids.some(({ id }) => id === batch.centroidId)) {
      throw new ServiceError("invalid_request", `There is no centroid ${batch.centroidId} among ${centroids.length}.`, {
        param: "centroidId",
      });
    }
    const ids = new Set(batch.sequences.map(({ id }) => id));
    if (ids.size < batch.sequences.length) throw duplicate("The batch has two sequences of the same id.");
    for (const id of ids) if (this.#sinks.has(id)) throw duplicate(`A sequence of id ${id} is open already.`);
    for (const id of ids) this.#sinks.set(id, sink);
    this.#say({ type: "submit", centroidId: batch.centroidId, sequences: batch.sequences });
  }

  /** Cancels what is open of `ids` and returns those; each still gets its last frame. */
  cancel(ids: readonly string[]): string[] {
    const open = ids.filter((id) => this.#sinks.has(id));
    if (open.length > 0) this.#say({ type: "cancel", ids: open });
    return open;
  }

  /**
   * Takes no more, waits up to `limitMs` for what is open, fails the rest, and ends the thread.
   * Resolves when the thread has ended.
   */
  async close(limitMs: number): Promise<void> {
    this.#isClosing = true;
    if (this.#sinks.size > 0) {
      const all = Promise.withResolvers<void>();
      this.#allEnded = all.resolve;
      const timer = setTimeout(all.resolve, limitMs);
      await all.promise;
      clearTimeout(timer);
    }
    this.#failOpen(unavailable(`The backend is shutting down, and did not finish within ${limitMs} ms.`));
    if (this.#info) this.#say({ type: "stop" });
    else await this.#worker.terminate();
    await this.#ended.promise;
  }

  #say(message: ToEngine): void {
    this.#worker.postMessage(message);
  }

  #hear(message: FromEngine): void {
    this.#messages++;
    if (message.type === "ready") {
      this.#info = message.info;
      this.#ready.resolve(message.info);
      return;
    }
    this.#stats = message.stats;
    if (message.report) this.#observer.phaseRan(message.report);
    this.#deliver(message.frames);
  }

  /** Gives each sink its frames at once. Frames of sequences that were failed here already find none. */
  #deliver(frames: readonly Frame[]): void {
    const bySink = new Map<FrameSink, Frame[]>();
    for (const frame of frames) {
      const sink = this.#sinks.get(frame.id);
      if (!sink) continue;
      const group = bySink.get(sink);
      if (group) group.push(frame);
      else bySink.set(sink, [frame]);
      if (frame.type !== "done" && frame.type !== "error") continue;
      this.#sinks.delete(frame.id);
      this.#observer.sequenceEnded(frame.type === "done" ? frame.finishReason : frame.kind);
    }
    for (const [sink, group] of bySink) sink(group);
    if (this.#sinks.size === 0) this.#allEnded?.();
  }

  #failOpen(error: ServiceError): void {
    this.#deliver([...this.#sinks.keys()].map((id) => errorFrame(id, error)));
  }

  #end(): void {
    this.#info = null;
    const failure = this.#isClosing ? null : (this.#failure ?? new Error("the engine's thread ended by itself"));
    this.#failure = failure;
    this.#failOpen(unavailable("The engine failed while it served this request."));
    if (failure) this.#ready.reject(failure);
    this.#ended.resolve(failure);
  }
}

function unavailable(message: string): ServiceError {
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1 });
}

function duplicate(message: string): ServiceError {
  return new ServiceError("invalid_request", message, { param: "sequences" });
}
