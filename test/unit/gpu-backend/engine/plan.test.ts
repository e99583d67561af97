/** What a step runs: which sequences start, which are passed (others start before them), and which are parked for others. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ServiceError } from "../../../../shared/errors.ts";
import { chunkTokens, type Fake, fake, Simulation } from "../../../support/plan-simulation.ts";

const many = (count: number, tenant: string, prompt = 10, completion = 200) =>
  Array.from({ length: count }, () => fake(prompt, completion, { tenant }));

/** Steps until a sequence has its first token. */
function stepsToFirstToken(simulation: Simulation, sequence: Fake): number {
  simulation.enqueue(sequence);
  for (let steps = 1; ; steps++) {
    expect(steps).toBeLessThan(1000);
    if (simulation.step().decode.includes(sequence)) return steps;
  }
}

test("the plan imports nothing with side effects, is short, and its loop fits a screen", () => {
  const source = readFileSync(`${import.meta.dirname}/../../../../gpu-backend/engine/plan.ts`, "utf8");
  const imports = [...source.matchAll(/^import (?:type )?.* from "(.*)";$/gm)].map(([line]) => line);
  expect(imports).toEqual(['import type { KvStore } from "../kv/runner.ts";']);
  expect(source).not.toMatch(/\b(Date|performance|Math\.random|process|await|async|Float32Array)\b/);
  expect(source.split("\n").length).toBeLessThanOrEqual(350);
  const [body] = source.match(/^export function plan<[\s\S]*?^}$/m)!;
  expect(body.split("\n").length).toBeLessThanOrEqual(60);
});

test("the prompt with the fewest chunks left goes first, also before one that has begun", () => {
  const simulation = new Simulation({ stepTokens: chunkTokens });
  const [long, middle, short] = [5, 3, 2].map((chunks) => fake(chunks * chunkTokens, 9));
  simulation.enqueue(long);
  simulation.step();
  simulation.enqueue(middle, short);
  const order: Fake[] = [];
  for (let i = 0; i < 9; i++) order.push(...simulation.step().prefill);
  expect(order.map((one) => [long, middle, short].indexOf(one))).toEqual([2, 2, 1, 1, 1, 0, 0, 0, 0]);
});

test("a tenant is charged for every decoded token, however many a step gives", () => {
  const [simulation, sequence] = [new Simulation(), fake(10, 9)];
  simulation.enqueue(sequence);
  simulation.planner.decoded(sequence, 7);
  expect(simulation.planner.state.service.get(sequence.tenant)).toBe(14);
});

test("prompts are cut where they would be cut alone, whatever runs beside them and however often they were parked", () => {
  const simulation = new Simulation({ maxSequences: 4, stepTokens: 200 });
  const sequences = Array.from({ length: 60 }, (_, i) => fake(1 + ((i * 37) % 300), 3, { tenant: `t${i % 3}` }));
  const lengths = sequences.map(({ pendingPromptTokens }) => pendingPromptTokens);
  for (const sequence of sequences) {
    simulation.enqueue(sequence);
    simulation.step();
  }
  simulation.finish();
  sequences.forEach(({ chunks }, i) => {
    const whole = Array.from({ length: Math.floor(lengths[i] / 64) }, () => 64);
    expect(chunks).toEqual(lengths[i] % 64 ? [...whole, lengths[i] % 64] : whole);
  });
});

test.each([
  ["64 plain prompts beside 8 streams", 8, 3, 128],
  ["64 plain prompts beside 16 streams", 16, 3, 128],
  ["64 prompts of many chunks beside 8 streams", 8, 300, 400],
])("%s: another prompt waits for its own chunks and two steps at most", (_, streams, promptTokens, otherTokens) => {
  const simulation = new Simulation({ maxSequences: 96, stepTokens: 2 * chunkTokens });
  simulation.enqueue(...many(streams, "b", 3, 100_000));
  for (let i = 0; i < 20; i++) simulation.step();
  simulation.enqueue(...many(64, "a", otherTokens, 50));
  for (let i = 0; i < 3; i++) simulation.step();
  const steps = stepsToFirstToken(simulation, fake(promptTokens, 5, { tenant: "b" }));
  expect(steps).toBeLessThanOrEqual(Math.ceil(promptTokens / chunkTokens) + 2);
});

test("prompts that begin alike compute the beginning once: the others wait, delay nobody, and then compute their rest", () => {
  const simulation = new Simulation({ stepTokens: 256 });
  const choices = Array.from({ length: 3 }, () => fake(200, 5, { prefix: "p" }));
  const other = fake(100, 5);
  simulation.enqueue(...choices, other);
  expect(new Set(simulation.step().started)).toEqual(new Set([choices[0], other]));
  simulation.finish();
  expect(choices.map(({ chunks }) => chunks)).toEqual([[64, 64, 64, 8], [8], [8]]);
});

test("between tenants: one with 1,000 queued and every slot does not delay one with a single sequence, and loses nothing", () => {
  const simulation = new Simulation();
  const greedy = many(1000, "greedy", 10, 30);
  simulation.enqueue(...greedy);
  for (let i = 0; i < 3; i++) simulation.step();
  const modest = fake(10, 30, { tenant: "modest" });
  simulation.enqueue(modest);
  const leftThen = greedy[7].left;
  const { started, parked } = simulation.step();
  expect([started, parked]).toEqual([[modest], [greedy[7]]]);
  expect(greedy[7].left).toBe(leftThen);
  while (greedy[0].left > 0) simulation.step();
  // The parked sequence gets the first free slot, before any sequence of its tenant that never ran.
  expect(simulation.step().started).toContain(greedy[7]);
  simulation.finish();
  expect([...greedy, modest].every(({ left }) => left === 0)).toBe(true);
});

test("between tenants slots are shared evenly among those who want them, and nobody is parked for an equal", () => {
  const simulation = new Simulation({ maxSequences: 6 });
  const counts = (...tenants: string[]) => tenants.map((tenant) => simulation.countOf(tenant));
  simulation.enqueue(...many(20, "a", 5, 400));
  simulation.step();
  for (const tenants of ["ab", "abc"].map((names) => names.split(""))) {
    simulation.enqueue(...many(20, tenants.at(-1)!, 5, 400));
    for (let i = 0; i < 10; i++) simulation.step();
    expect(counts(...tenants)).toEqual(tenants.map(() => 6 / tenants.length));
  }
  const { preemptions } = simulation;
  for (let i = 0; i < 100; i++) simulation.step();
  expect(simulation.preemptions).toBe(preemptions);
});

test("between tenants: one that returns has its counter raised to the others', so pauses earn no credit", () => {
  const simulation = new Simulation({ maxSequences: 1 });
  simulation.enqueue(...many(100, "busy", 1, 20));
  for (let i = 0; i < 400; i++) simulation.step();
  simulation.enqueue(...many(100, "idle", 1, 20));
  expect(simulation.counterOf("idle")).toBe(simulation.counterOf("busy"));
  const before = simulation.counterOf("busy");
  for (let i = 0; i < 200; i++) simulation.step();
  expect(Math.abs(simulation.counterOf("idle") - simulation.counterOf("busy"))).toBeLessThan(100);
  expect(simulation.counterOf("busy")).toBeGreaterThan(before + 100);

  const visited = new Simulation({ maxSequences: 1 });
  const patient = fake(1, 1, { tenant: "patient" });
  visited.enqueue(fake(1, 5, { tenant: "holder" }));
  visited.step();
  visited.enqueue(patient);
  for (let i = 0; patient.left > 0; i++) {
    expect(i).toBeLessThan(6);
    visited.enqueue(fake(1, 1, { tenant: `visitor${i}` }));
    visited.step();
  }
});

test("within a tenant the first due is first", () => {
  const simulation = new Simulation({ maxSequences: 1 });
  const [patient, urgent] = [fake(1, 3, { dueMs: 1000 }), fake(1, 3, { dueMs: 50 })];
  simulation.enqueue(patient, urgent);
  expect(simulation.step().started).toEqual([urgent]);
});

const refusalOf = (work: () => void): unknown => {
  try {
    work();
  } catch (error) {
    return error;
  }
  return null;
};

test("the queue takes as many sequences of a tenant as it leaves places free, so that others find some; a refusal says when to come back", () => {
  const simulation = new Simulation({ maxSequences: 2, maxQueue: 6 });
  const enqueue = (tenant: string) => simulation.enqueue(fake(1, 1, { tenant }));
  for (let i = 0; i < 3; i++) enqueue("greedy");
  const refusal = refusalOf(() => enqueue("greedy"));
  expect(refusal).toBeInstanceOf(ServiceError);
  expect(refusal).toMatchObject({ kind: "overloaded", retryAfterSeconds: 2 });
  expect((refusal as Error).message).toMatch(/3 of 6 places free.*has 3/);
  enqueue("modest");
  enqueue("another");
  expect(refusalOf(() => enqueue("modest"))).toMatchObject({ kind: "overloaded" });
});

test("each greedy tenant halves the queue's free places: 64 places hold six such tenants and one more sequence", () => {
  const simulation = new Simulation({ maxQueue: 64 });
  const taken = Array.from({ length: 8 }, (_, tenant) => {
    const before = simulation.waiting.length;
    while (!refusalOf(() => simulation.enqueue(fake(1, 1, { tenant: `t${tenant}` }))));
    return simulation.waiting.length - before;
  });
  expect(taken).toEqual([32, 16, 8, 4, 2, 1, 1, 0]);
});
