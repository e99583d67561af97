/**
 * The calls of one object to all backends, over the few connections that may wait for an answer. Batches that wait for the same
 * backend go in one call: those after the loss of a backend, and micro-batches behind them. Each is answered as if it were
 * alone. Not here: which wait together (waiting-calls.ts), and HTTP (client.ts).
 */
import { type BatchRequest, type Frame, ownAdaptersOf } from "../../shared/contracts/inference.ts";
import { asFailure, brokenOff } from "./call-failure.ts";
import type { BackendCalls, BatchCall, OpenBatch } from "./client.ts";
import { FrameQueue } from "./frame-queue.ts";
import { type WaitingCall, WaitingCalls } from "./waiting-calls.ts";

/** A batch that waits for a connection or, in a call with others, for its frames. */
interface Part extends WaitingCall {
  batch: BatchRequest;
  call: BatchCall;
  client: BackendCalls;
  accepted: PromiseWithResolvers<OpenBatch>;
}

export class JoinedCalls {
  readonly #waiting: WaitingCalls<Part>;
  #clients = 0;

  constructor(connections: number, mostSequences: number) {
    this.#waiting = new WaitingCalls(connections, mostSequences);
  }

  /** `client`, whose batches wait for a connection and may be joined. */
  over(client: BackendCalls): BackendCalls {
    const id = ++this.#clients;
    return {
      openBatch: (batch, call) => {
        const accepted = Promise.withResolvers<OpenBatch>();
        const { isRepeated } = call;
        const sequences = batch.sequences.length;
        this.#open(
          this.#waiting.add({ key: keyOf(id, batch, call), isRepeated, sequences, batch, call, client, accepted }),
        );
        return accepted.promise;
      },
      cancel: (ids, process) => client.cancel(ids, process),
      readiness: (process) => client.readiness(process),
    };
  }

  #open(parts: readonly Part[]): void {
    if (parts.length === 0) return;
    const open = parts.filter(({ call }) => !call.signal.aborted);
    for (const { call, accepted } of parts) if (call.signal.aborted) accepted.reject(call.signal.reason);
    void this.#answer(open).finally(() => this.#open(this.#waiting.release(parts)));
  }

  /** Resolves when the backend has answered. */
  async #answer(parts: readonly Part[]): Promise<void> {
    if (parts.length === 0) return;
    const [{ batch, call, client, accepted }] = parts;
    try {
      if (parts.length === 1) accepted.resolve(await client.openBatch(batch, call));
      else await answerTogether(parts);
    } catch (thrown) {
      const failure = asFailure(thrown);
      failure.wasShared = parts.length > 1;
      for (const part of parts) part.accepted.reject(failure);
    }
  }
}

/** Whether the batch may be in a call with others of its manifest: all are mixtures, and none names a tenant's own adapter. */
export function mayShareCall(batch: BatchRequest): boolean {
  return batch.sequences.every(({ mixture }) => mixture) && ownAdaptersOf(batch).length === 0;
}

/** Null where the batch goes alone. */
function keyOf(
  client: number,
  batch: BatchRequest,
  { numerics, process, isOnlyProcess, isRepeated, isAlone }: BatchCall,
): string | null {
  if (isAlone || !mayShareCall(batch)) return null;
  return JSON.stringify([client, batch.manifestHash, numerics, process, isOnlyProcess, isRepeated]);
}

async function answerTogether(parts: readonly Part[]): Promise<void> {
  const [{ batch, call, client }] = parts;
  const all = new AbortController();
  const streams = new Map(parts.map((part) => [part, new FrameQueue()]));
  let answer: OpenBatch | null = null;
  // A backend does not know them before it answers. A cancellation that fails leaves them running, which costs only time.
  const cancel = (part: Part, process: string | null) =>
    void client
      .cancel(
        part.batch.sequences.map(({ id }) => id),
        process,
      )
      .catch(() => undefined);
  for (const part of parts) {
    const { signal } = part.call;
    signal.addEventListener("abort", () => {
      part.accepted.reject(signal.reason);
      streams.get(part)?.end(signal.reason);
      streams.delete(part);
      if (streams.size === 0) all.abort();
      else if (answer) cancel(part, answer.process);
    });
  }
  const sequences = parts.flatMap((part) => part.batch.sequences);
  answer = await client.openBatch({ ...batch, sequences }, { ...call, signal: all.signal });
  let isRecorded = false;
  for (const part of parts) {
    const frames = streams.get(part);
    if (!frames) {
      cancel(part, answer.process);
      continue;
    }
    part.accepted.resolve({ ...answer, frames, isRecorded });
    isRecorded = true;
  }
  void distribute(answer.frames, parts, streams);
}

/** Passes each frame on to the part that it is for, until the stream ends, fails, or nobody is left. */
async function distribute(
  groups: AsyncIterable<Frame[]>,
  parts: readonly Part[],
  streams: ReadonlyMap<Part, FrameQueue>,
): Promise<void> {
  const partOf = new Map(parts.flatMap((part) => part.batch.sequences.map(({ id }) => [id, part])));
  // A reader leaves with its last frame, so those that still read at the end lack some. They share one failure, which counts once.
  let failure = brokenOff(new Error("the stream of frames ended early"));
  try {
    for await (const group of groups) {
      for (const [part, frames] of Map.groupBy(group, ({ id }) => partOf.get(id))) {
        if (!part) throw new Error(`a frame of ${frames[0].id}, which is not of this call`);
        // Those of a part that has left are dropped.
        streams.get(part)?.push(...frames);
      }
      if (streams.size === 0) break;
    }
  } catch (thrown) {
    failure = asFailure(thrown);
  }
  for (const stream of streams.values()) stream.end(failure);
}
