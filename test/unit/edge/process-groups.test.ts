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
import { framesFor, turn } from "../../support/scripted-backends.ts";

let group: ProcessGroup;
let uploads: string[];
let works: Promise<void>[];
let limits: typeof queueLimits;
afterEach(() => group.stop());

function newClient(url: string): BackendClient {
  const fileOf = async (_: string, hash: string) => {
    uploads.push(hash);
    return new ArrayBuffer(8);
  };
  return new BackendClient(url, { sign: createSigner([groupSecret], Date.now), fileOf });
}

async function startEdge(balancing: Balancing): Promise<Dispatcher> {
  group = await startProcessGroup(4, balancing);
  return edgeOf([group.url]);
}

function edgeOf(urls: readonly string[], now = () => performance.now()): Dispatcher {
  uploads = [];
  works = [];
  limits = { ...queueLimits };
  const addresses = urls.map((url) => ({ url, region: null }));
  const routing = createRouting({ addresses, clientOf: ({ url }) => newClient(url), region: null });
  return new Dispatcher({
    routing: () => routing,
    limits,
    observe: () => undefined,
    now,
    after(ms, work) {
      const timer = setTimeout(work, ms);
      return () => clearTimeout(timer);
    },
    keepAlive: (work) => void works.push(work),
  });
}

/** Four sequences; every third batch uses an adapter of the tenant's own. The others may share a call if they are mixtures. */
function batchOf(i: number, maxTokens: number, isMixed = false): BatchRequest {
  const mixture = { base: 0.5, adapters: [{ centroidId: `c${i % 5}`, weight: 0.5 }] };
  const sequences = Array.from({ length: 4 }, (_, j) => {
    const request = sequenceRequest(`s${i}_${j}`);
    const sampling = { ...request.sampling, seed: 10 * i + j };
    return { ...request, maxTokens, sampling, ...(isMixed && i % 3 !== 0 && { mixture }) };
  });
  const own = i % 3 === 0 ? { adapterHash: (i % 6).toString(16).padStart(64, "0") } : {};
  return { version: 1, manifestHash: "a".repeat(64), centroidId: `c${i % 5}`, sequences, ...own };
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
    // The others take it along, in a call of their own.
    Object.assign(limits, { connections: 0, connectionsPerBackend: 200, callsPerGroup: 200 });
    const cancelled = submit([first], () => {
      cancelled.cancel();
      end(first.id);
    });
    limits.connections = 200;
    submit(others, ignore);
  });
}

/** Without the time in the queue. */
function timeless(frame: Frame): Frame {
  return frame.type === "done" ? { ...frame, timings: { ...frame.timings, queueMs: 0 } } : frame;
}

/** Runs batches at the same time. Each sequence must be whole, or begun where it was cancelled. */
async function expectWhole(client: Dispatcher, numbers: number[], cancels = false, maxTokens = 12): Promise<void> {
  const batches = numbers.map((i) => batchOf(i, maxTokens, !cancels));
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
    // The router chooses who gets how many.
    const isKilled = () => group.processes[1].killedAfterTokens === Number.POSITIVE_INFINITY;
    for (let wave = 0; wave < 20 && !isKilled(); wave++) await expectWhole(backends, numbers(24));
    expect(isKilled()).toBe(true);
  });

  test("lose one that drains: it alone is ejected", async () => {
    const backends = await startEdge(balancing);
    await expectWhole(backends, numbers(8));
    group.processes[2].isDraining = true;
    const before = group.processes[2].taken.length;
    await expectWhole(backends, numbers(24));
    expect(group.processes[2].taken.length).toBe(before);
    for (const i of [0, 1, 3]) expect(group.processes[i].taken.length).toBeGreaterThan(0);
  });
});

test("four processes behind one address are restarted in turn under 200 streams: 0 failed, 0 different", {
  timeout: 60_000,
}, async () => {
  const backends = await startEdge("header");
  let isOver = false;
  const load = async () => {
    do await expectWhole(backends, numbers(50), false, 30);
    while (!isOver);
  };
  const running = load();
  let broken = 0;
  for (const process of group.processes) {
    while (process.running === 0) await turn();
    process.isDraining = true;
    for (let i = 0; i < 10; i++) await turn();
    // What it has not ended by now.
    broken += process.running;
    process.kill();
    process.isDraining = false;
    await process.start();
  }
  isOver = true;
  await running;
  expect(broken).toBeGreaterThan(0);
});

test.each([0, 1])("of two backends, where others have loaded one (%i), batches go to the free one", async (loaded) => {
  group = await startProcessGroup(2, "URL");
  const { processes } = group;
  // A clock that stands still: reports do not age.
  const backends = edgeOf(
    processes.map(({ port }) => `http://127.0.0.1:${port}`),
    () => 0,
  );
  processes[loaded].othersSequences = 32;
  for (const i of numbers(20)) await expectWhole(backends, [i]);
  const taken = processes.map((process) => process.taken.length);
  // It reports its load with the first batch that it gets, if it gets one.
  expect(taken[loaded]).toBeLessThanOrEqual(1);
  expect(taken[0] + taken[1]).toBe(20);
  // They are gone; the free one is loaded now, and reports that.
  processes[loaded].othersSequences = 0;
  processes[1 - loaded].othersSequences = 320;
  for (const i of numbers(20)) await expectWhole(backends, [20 + i]);
  expect(processes[loaded].taken.length).toBeGreaterThanOrEqual(19);
});
