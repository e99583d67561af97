/**
 * One micro-batch's answer: frames from the engine to an NDJSON body, until the last sequence has its last frame.
 * Blank lines in between tell that there is still somebody at work.
 */
import type { BatchRequest, Frame } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import type { EngineClient } from "../host/client.ts";
import { FrameGathering } from "./frame-gathering.ts";
import { Heartbeat } from "./heartbeat.ts";

/**
 * Unread bytes of one answer: above, its reader is too slow, or has hung. As many as the prompt frames of a full micro-batch
 * have with five alternatives a token, which come within a few steps.
 */
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
 * Submits a micro-batch; `saw` hears of each of its frames. The body's consumer going away cancels what is still open.
 * Throws a ServiceError where nothing of it can be served.
 */
export function frameStream(
  engine: Pick<EngineClient, "submit" | "cancel">,
  batch: BatchRequest,
  ended: (outcome: BatchOutcome) => void,
  saw: (frame: Frame) => void = () => undefined,
): ReadableStream<Uint8Array> {
  const open = new Set(batch.sequences.map(({ id }) => id));
  const outcome: BatchOutcome = { tokens: 0, done: 0, failed: 0, clientGone: false };
  const encoder = new TextEncoder();
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  /** Nobody reads on. */
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
        saw(frame);
      }
      if (!outcome.clientGone) gathering.push(frames);
      heartbeat.spoken();
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
