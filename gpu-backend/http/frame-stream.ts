/** The NDJSON answer to one micro-batch. Blank lines are heartbeats. A token may wait up to its sequence's `gatherMs`. */
import {
  type BatchRequest,
  type Frame,
  heartbeatMs,
  isLast,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import type { EngineClient } from "../host/client.ts";

/** Bound on unread bytes: a full micro-batch's prompt frames with five alternatives for each token. */
export const unreadFrameBytes = 16 * 2 ** 20;

export interface BatchOutcome {
  tokens: number;
  /** Sequences that ended in a done frame, and in an error frame. */
  done: number;
  failed: number;
  clientGone: boolean;
}

/** Throws a ServiceError if the engine refuses the batch. */
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
  const drop = () => {
    outcome.clientGone = true;
    gathering.stop();
    clearInterval(heartbeat);
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
  let isSilent = true;
  const heartbeat = setInterval(() => {
    if (isSilent) write("\n");
    isSilent = true;
  }, heartbeatMs);
  try {
    engine.submit(batch, (frames) => {
      isSilent = false;
      for (const frame of frames) {
        count(frame, outcome);
        if (isLast(frame)) open.delete(frame.id);
        onFrame(frame);
      }
      if (!outcome.clientGone) gathering.push(frames);
      if (open.size > 0) return;
      clearInterval(heartbeat);
      if (!outcome.clientGone) controller.close();
      ended(outcome);
    });
  } catch (error) {
    clearInterval(heartbeat);
    throw error;
  }
  return body;
}

function count({ type }: Frame, outcome: BatchOutcome): void {
  if (type === "token") outcome.tokens++;
  else if (type === "done") outcome.done++;
  else if (type === "error") outcome.failed++;
}

export class FrameGathering {
  readonly #send: (frames: Frame[]) => void;
  readonly #gatherMs: ReadonlyMap<string, number>;
  /** `gatherMs` of each sequence that has sent its first token, by id. */
  readonly #waitsMs = new Map<string, number>();
  #waiting: Frame[] = [];
  #timer: NodeJS.Timeout | undefined;

  /** `send` gets every frame once, in order. */
  constructor(sequences: readonly SequenceRequest[], send: (frames: Frame[]) => void) {
    this.#send = send;
    this.#gatherMs = new Map(sequences.map(({ id, gatherMs = 0 }) => [id, gatherMs]));
  }

  push(frames: readonly Frame[]): void {
    let isUrgent = false;
    for (const frame of frames) {
      // Only tokens after a sequence's first may wait.
      isUrgent ||= frame.type !== "token" || !this.#waitsMs.has(frame.id);
      if (isLast(frame)) this.#waitsMs.delete(frame.id);
      else if (frame.type === "token") this.#waitsMs.set(frame.id, this.#gatherMs.get(frame.id)!);
    }
    this.#waiting.push(...frames);
    const waitMs = isUrgent ? 0 : Math.min(...this.#waitsMs.values());
    if (waitMs === 0) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), waitMs);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#waiting = [];
  }

  #flush(): void {
    const frames = this.#waiting;
    this.stop();
    this.#send(frames);
  }
}
