/**
 * The answer to one micro-batch: frames from the engine as an NDJSON body, until the last sequence has its last frame. Tokens
 * wait for later ones where their callers allow it, and blank lines show that this process is alive.
 */
import { type BatchRequest, type Frame, heartbeatMs, type SequenceRequest } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import type { EngineClient } from "../host/client.ts";

/** Maximum unread bytes of one answer: the prompt frames of a full micro-batch with five alternatives a token. */
export const unreadFrameBytes = 16 * 2 ** 20;

/** How a micro-batch ended, for the log. */
export interface BatchOutcome {
  tokens: number;
  /** Sequences that ended in a done frame. */
  done: number;
  /** Sequences that ended in an error frame. */
  failed: number;
  clientGone: boolean;
}

/**
 * Submits a micro-batch; `onFrame` hears of each of its frames. The body's consumer going away cancels what is still open.
 * Throws a ServiceError if the engine refuses it.
 */
export function frameStream(
  engine: Pick<EngineClient, "submit" | "cancel">,
  batch: BatchRequest,
  ended: (outcome: BatchOutcome) => void,
  onFrame: (frame: Frame) => void = () => undefined,
): ReadableStream<Uint8Array> {
  const open = new Set(batch.sequences.map(({ id }) => id));
  const outcome: BatchOutcome = { tokens: 0, done: 0, failed: 0, clientGone: false };
  const encoder = new TextEncoder();
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  /** Cancels what is open, as nobody reads it. */
  const drop = () => {
    outcome.clientGone = true;
    gathering.stop();
    heartbeat.stop();
    engine.cancel([...open]);
  };
  const body = new ReadableStream<Uint8Array>(
    {
      start(started) {
        controller = started;
      },
      cancel: drop,
    },
    new ByteLengthQueuingStrategy({ highWaterMark: unreadFrameBytes }),
  );
  const write = (text: string) => {
    controller.enqueue(encoder.encode(text));
    if (controller.desiredSize! >= 0) return;
    controller.error(new Error(`more than ${unreadFrameBytes} bytes of the answer are unread`));
    drop();
  };
  const gathering = new FrameGathering(batch.sequences, (frames) => write(frames.map(frameLine).join("")));
  const heartbeat = new Heartbeat(() => write("\n"));
  try {
    engine.submit(batch, (frames) => {
      for (const frame of frames) {
        count(frame, outcome, open);
        onFrame(frame);
      }
      if (!outcome.clientGone) gathering.push(frames);
      heartbeat.frameSent();
      if (open.size > 0) return;
      heartbeat.stop();
      if (!outcome.clientGone) controller.close();
      ended(outcome);
    });
  } catch (error) {
    heartbeat.stop();
    throw error;
  }
  return body;
}

function count(frame: Frame, outcome: BatchOutcome, open: Set<string>): void {
  if (frame.type === "token") outcome.tokens++;
  else if (frame.type === "done") outcome.done++;
  else if (frame.type === "error") outcome.failed++;
  if (frame.type === "done" || frame.type === "error") open.delete(frame.id);
}

export class FrameGathering {
  readonly #send: (frames: Frame[]) => void;
  /** Milliseconds that tokens of a sequence may wait; none is kept that may not. */
  readonly #gatherMs: ReadonlyMap<string, number>;
  /** Sequences that had a token. */
  readonly #begun = new Set<string>();
  #waiting: Frame[] = [];
  /** By how long the frame that set one may wait; the first to run off sends all. */
  readonly #timers = new Map<number, ReturnType<typeof setTimeout>>();

  /** `send` gets every frame once, in order, those together that travel together. */
  constructor(sequences: readonly SequenceRequest[], send: (frames: Frame[]) => void) {
    this.#send = send;
    this.#gatherMs = new Map(sequences.flatMap(({ id, gatherMs }) => (gatherMs === undefined ? [] : [[id, gatherMs]])));
  }

  push(frames: readonly Frame[]): void {
    this.#waiting.push(...frames);
    const waitMs = Math.min(...frames.map((frame) => this.#waitMs(frame)));
    if (waitMs === 0) this.#flush();
    else if (!this.#timers.has(waitMs)) this.#arm(waitMs);
  }

  /** Drops waiting frames. */
  stop(): void {
    this.#waiting = [];
    this.#disarm();
  }

  #waitMs({ type, id }: Frame): number {
    if (type !== "token") return 0;
    if (this.#begun.has(id)) return this.#gatherMs.get(id) ?? 0;
    this.#begun.add(id);
    return 0;
  }

  #arm(waitMs: number): void {
    const timer = setTimeout(() => this.#flush(), waitMs);
    this.#timers.set(waitMs, timer);
  }

  #flush(): void {
    this.#disarm();
    this.#send(this.#waiting.splice(0));
  }

  #disarm(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }
}

export class Heartbeat {
  readonly #timer: ReturnType<typeof setInterval>;
  #isSent = false;

  /** Runs `beat` until it is stopped. */
  constructor(beat: () => void) {
    this.#timer = setInterval(() => {
      if (!this.#isSent) beat();
      this.#isSent = false;
    }, heartbeatMs);
  }

  /** Skips the next beat. */
  frameSent(): void {
    this.#isSent = true;
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
