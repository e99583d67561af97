/** The edge's routing against several processes behind one address, over HTTP, signed. */
import { afterEach, describe, expect, test } from "vitest";
import { BackendClient } from "../../../edge/dispatch/client.ts";
import { Dispatcher } from "../../../edge/dispatch/dispatcher.ts";
import { createRouting } from "../../../edge/dispatch/routing.ts";
import { queueLimits } from "../../../edge/dispatch/routing-limits.ts";
import { createSigner } from "../../../shared/contracts/call-signature.ts";
import { type BatchRequest, type Frame, isLast } from "../../../shared/contracts/inference.ts";
import { type Balancing, balancings } from "../../support/balancer.ts";
import { sequenceRequest } from "../../support/frames.ts";
import { groupSecret, type ProcessGroup, startProcessGroup } from "../../support/process-group.ts";
import { framesFor } from "../../support/scripted-backends.ts";

let group: ProcessGroup;
let uploads: string[];
let works: Promise<void>[];
let limits: typeof queueLimits;
afterEach(() => group.stop());

function newClient(url: string): BackendClient {
  const fileOf = async (_: string, hash: string) => {
    uploads.push(hash);
    return new Uint8Array(8);
  };
  return new BackendClient(url, { sign: createSigner([groupSecret], Date.now), fileOf });
}

async function startEdge(balancing: Balancing): Promise<Dispatcher> {
  group = await startProcessGroup(4, balancing);
  uploads = [];
  works = [];
  limits = { ...queueLimits };
  const addresses = [{ url: group.url, region: null }];
  const routing = createRouting({ addresses, clientOf: ({ url }) => newClient(url), region: null });
  return new Dispatcher({
    routing: () => routing,
    limits,
    observe: () => undefined,
    now: () => performance.now(),
    after(ms, work) {
      const timer = setTimeout(work, ms);
      return () => clearTimeout(timer);
    },
    keepAlive: (work) => void works.push(work),
  });
}

/** Four sequences; every third batch uses an adapter of the tenant's own. The others may share a call if they are mixtures. */
function batchOf(i: number, isMixed: boolean): BatchRequest {
  const mixture = { base: 0.5, adapters: [{ centroidId: `c${i % 5}`, weight: 0.5 }] };
  const sequences = Array.from({ length: 4 }, (_, j) => {
    const request = sequenceRequest(`s${i}_${j}`);
    const sampling = { ...request.sampling, seed: 10 * i + j };
    return { ...request, maxTokens: 12, sampling, ...(isMixed && i % 3 !== 0 && { mixture }) };
  });
  const own = i % 3 === 0 ? { adapterHash: (i % 6).toString(16).padStart(64, "0") } : {};
  return { version: 3, manifestHash: "a".repeat(64), centroidId: `c${i % 5}`, sequences, ...own };
}

/** The frames of each sequence of a batch. If `cancels`, the first one is cancelled once it has a frame. */
function run(client: Dispatcher, batch: BatchRequest, cancels: boolean): Promise<Map<string, Frame[]>> {
  const received = new Map<string, Frame[]>(batch.sequences.map(({ id }) => [id, []]));
  const left = new Set(received.keys());
  return new Promise((resolve) => {
    const end = (id: string) => {
      left.delete(id);
      if (left.size === 0) resolve(received);
    };
    const submit = (sequences: BatchRequest["sequences"], seen: () => void) => {
      return client.submit(
        { ...batch, sequences },
        {
          accepted: () => undefined,
          receive(frames) {
            for (const frame of frames) {
              received.get(frame.id)!.push(timeless(frame));
              if (isLast(frame)) end(frame.id);
            }
            seen();
          },
        },
      );
    };
    const ignore = () => {};
    if (!cancels) return submit(batch.sequences, ignore);
    const [first, ...others] = batch.sequences;
    // With no connection free the first sequence waits, so that the call of the others takes it along.
    Object.assign(limits, { connections: 0, connectionsPerBackend: 200, callsPerGroup: 200 });
    const cancel = submit([first], () => {
      cancel();
      end(first.id);
    });
    limits.connections = 200;
    submit(others, ignore);
  });
}

/** The frame without its time in the queue, which differs from run to run. */
function timeless(frame: Frame): Frame {
  return frame.type === "done" ? { ...frame, timings: { ...frame.timings, queueMs: 0 } } : frame;
}

/** Runs batches at the same time. Each sequence must be whole, or a beginning if it was cancelled. */
async function expectWhole(client: Dispatcher, numbers: number[], cancels = false): Promise<void> {
  const batches = numbers.map((i) => batchOf(i, !cancels));
  const cancelledOf = ({ sequences }: BatchRequest) => (cancels ? sequences.slice(0, 1).map(({ id }) => id) : []);
  const results = await Promise.all(batches.map((batch) => run(client, batch, cancels)));
  for (const [i, batch] of batches.entries()) {
    for (const sequence of batch.sequences) {
      const [whole, got] = [framesFor(sequence), results[i].get(sequence.id)!];
      expect(got).toEqual(cancelledOf(batch).includes(sequence.id) ? whole.slice(0, got.length) : whole);
    }
  }
  await Promise.all(works);
}

const numbers = (count: number) => Array.from({ length: count }, (_, i) => i);
const sum = (of: (process: ProcessGroup["processes"][number]) => number) =>
  group.processes.map(of).reduce((a, b) => a + b, 0);

describe.each(balancings)("four processes behind one address (%s)", (balancing) => {
  test("serve own adapters, whichever process a batch reaches, and are told of cancellations where they run", async () => {
    const backends = await startEdge(balancing);
    for (const process of group.processes) process.holdsUntilCancelled = true;
    await expectWhole(backends, numbers(24), true);
    await expectWhole(backends, numbers(24), true);
    expect(sum(({ cancelled }) => cancelled.length)).toBe(48);
    for (const { strangers, taken } of group.processes) {
      expect(strangers).toEqual([]);
      expect(taken.length).toBeGreaterThan(0);
    }
    expect(new Set(uploads).size).toBe(2);
    expect(sum(({ refusedAsOther }) => refusedAsOther)).toBe(0);
  });

  test("lose one in mid-stream: each stream goes on elsewhere, unbroken and the same", async () => {
    const backends = await startEdge(balancing);
    await expectWhole(backends, numbers(8));
    group.processes[1].killedAfterTokens = 60;
    // The router decides how many sequences the process gets, so it may take several waves.
    const isKilled = () => group.processes[1].killedAfterTokens === Number.POSITIVE_INFINITY;
    for (let wave = 0; wave < 20 && !isKilled(); wave++) await expectWhole(backends, numbers(24));
    expect(isKilled()).toBe(true);
  });
});
