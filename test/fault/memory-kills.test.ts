/**
 * kill -9 of both backends, their engines or the edge while documents are uploaded and a job runs. Each adapter is whole or absent,
 * the job ends ready, and each adapter that exists is charged once. A fine-tuning job survives such a kill, too.
 */
import { expect, test } from "vitest";
import type { FileObject, Job, JobEventObject } from "../../shared/contracts/fine-tuning.ts";
import { limits } from "../../shared/contracts/limits.ts";
import type { Adapter, AdapterList, CompletionResponse, UsageReport } from "../../shared/contracts/responses.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { seededRandom } from "../support/steps.ts";
import { startMemoryCluster } from "./memory-cluster.ts";

const seed = 3503;
const random = seededRandom(seed);
const words = "harbour ledger stair lantern copper gull quay rope master tide".split(" ");
const text = (length: number) => Array.from({ length }, () => words[Math.floor(random() * words.length)]).join(" ");

const victims = ["backend", "engine", "edge"] as const;
type Victim = (typeof victims)[number];
/** The tenant whose fine-tuning job is interrupted when the victim is killed. */
const tuningOf = (victim: Victim) => `${victim}-tuning`;
const patience = { timeout: 120_000, interval: 50 };

const cluster = stopAtEnd(await startMemoryCluster([...victims, ...victims.map(tuningOf)]));

const json = async <T>(tenant: string, route: string) => (await (await cluster.call(tenant, "GET", route)).json()) as T;

async function kill(victim: Victim): Promise<void> {
  if (victim === "edge") {
    await cluster.killEdge();
    return cluster.startEdge();
  }
  if (victim === "backend") {
    await Promise.all([0, 1].map((one) => cluster.restartBackend(one, "SIGKILL")));
    return;
  }
  const engines = () => cluster.backends.map((backend) => backend.enginePids().length);
  const before = engines();
  for (const backend of [0, 1]) cluster.killEngine(backend);
  await expect.poll(engines, patience).toEqual(before.map((count) => count + 1));
}

/** Log-probabilities of a text under an adapter. */
async function scores(tenant: string, adapter: string): Promise<unknown> {
  const prompt = words.join(" ").repeat(3);
  const body = { prompt, max_tokens: 0, echo: true, logprobs: 0, chameleon: { adapter } };
  const answered = await cluster.call(tenant, "POST", "/v1/completions", body);
  if (!answered.ok) return answered.text();
  return ((await answered.json()) as CompletionResponse).choices[0].logprobs!.token_logprobs.slice(1);
}

test.each(victims)(
  "documents: %s",
  async (victim) => {
    const tenant = victim;
    /** Status of each adapter's request, by name; 0: the connection was cut. */
    const statuses = new Map<string, number>();
    const create = async (name: string, documents: object[]) => {
      const answered = await cluster.call(tenant, "POST", "/v1/adapters", { name, documents }).catch(() => null);
      await answered?.text().catch(() => undefined);
      statuses.set(name, answered?.status ?? 0);
      return answered?.status;
    };
    let killing: Promise<void> | null = null;
    let kills = 0;
    /** Adapters that each of the two clients made since the last kill. */
    const made = [0, 0];
    const client = async (c: number) => {
      for (let i = 0; kills < 2 || made[c] === 0; i++) {
        const documents = Array.from({ length: 3 }, (_, d) => ({ name: `${i}-${d}.md`, text: text(100) }));
        if ((await create(`small${c}-${i}`, documents)) === 201) made[c]++;
        else await killing;
      }
    };
    const killNow = async () => {
      killing = kill(victim);
      await killing;
      made.fill(0);
      kills++;
    };
    const parts = Array.from({ length: 17 }, (_, d) => ({ name: `${d}.md`, text: text(1000) }));
    expect(await create("job", parts)).toBe(202);
    const job = async () => (await json<Adapter>(tenant, "/v1/adapters/job")).memory!;
    await expect.poll(async () => (await job()).built_tokens, patience).toBeGreaterThan(0);
    const clients = [client(0), client(1)];
    // The first kill comes while the job runs and the clients wait, the second one while the clients' adapters are made.
    await killNow();
    await expect.poll(() => Math.min(...made), patience).toBeGreaterThan(0);
    await killNow();
    await Promise.all(clients);
    console.log(`seed ${seed}, ${victim}: ${JSON.stringify([...statuses])}`);
    const expected = victim === "edge" ? [0, 201, 202] : [201, 202, 503];
    for (const [name, status] of statuses) expect(expected, name).toContain(status);

    const all = async () => (await json<AdapterList>(tenant, "/v1/adapters")).data;
    const states = async () => new Set((await all()).map(({ memory }) => memory!.status));
    await expect.poll(states, patience).toEqual(new Set(["ready"]));
    const there = await all();
    for (const [name, status] of statuses) {
      const isThere = there.some((one) => one.name === name);
      // An adapter whose request was cut off may exist or not.
      if (status !== 0) expect(isThere, name).toBe(status < 300);
      if (!isThere) continue;
      const { memory, documents } = await json<Adapter>(tenant, `/v1/adapters/${name}`);
      expect(documents, name).toHaveLength(name === "job" ? parts.length : 3);
      expect(documents!.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(memory!.tokens);
    }
    expect((await job()).tokens).toBeGreaterThan(limits.memoryTokensAtOnce);

    const charges = async () => {
      const { data } = await json<UsageReport>(tenant, "/v1/usage");
      return new Map(data.map((row) => [row.model.split(":")[1], [row.requests, row.prompt_tokens]]));
    };
    const owed = new Map(there.map(({ name, memory }) => [name, [1, memory!.tokens]]));
    await expect.poll(charges, patience).toEqual(owed);

    // On empty disks the backends make the memories again from the documents; scores must be the same.
    const read = there.filter(({ name }) => name === "job" || name.endsWith("0"));
    const before = await Promise.all(read.map(({ name }) => scores(tenant, name)));
    expect(before.every(Array.isArray), JSON.stringify(before).slice(0, 300)).toBe(true);
    await Promise.all([0, 1].map((backend) => cluster.restartBackend(backend, "SIGKILL", true)));
    expect(await Promise.all(read.map(({ name }) => scores(tenant, name)))).toEqual(before);
  },
  240_000,
);

test.each(victims)(`a fine-tuning job goes on, and is charged once: %s (seed ${seed})`, async (victim) => {
  const tenant = tuningOf(victim);
  const answer = "zorblax";
  const examples = Array.from({ length: 128 }, () =>
    JSON.stringify({ prompt: `${text(60)} =>`, completion: ` ${answer}` }),
  );
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", new File([examples.join("\n")], "examples.jsonl"));
  const file = (await (await cluster.call(tenant, "POST", "/v1/files", form)).json()) as FileObject;
  const body = { model: "gpt2", training_file: file.id, suffix: "task" };
  const created = await cluster.call(tenant, "POST", "/v1/fine_tuning/jobs", body);
  expect(created.status, await created.clone().text()).toBe(200);
  const { id } = (await created.json()) as Job;
  const job = () => json<Job>(tenant, `/v1/fine_tuning/jobs/${id}`);
  await expect.poll(async () => (await job()).status, patience).toBe("running");
  await kill(victim);
  // The kill came in the middle of the job.
  expect(await job()).toMatchObject({ status: "running", trained_tokens: null });
  await expect.poll(async () => (await job()).finished_at, patience).not.toBeNull();
  const { data: events } = await json<{ data: JobEventObject[] }>(tenant, `/v1/fine_tuning/jobs/${id}/events`);
  const told = events.map(({ message }) => message).join("\n");
  const ended = await job();
  expect(ended, told).toMatchObject({ status: "succeeded", fine_tuned_model: "gpt2:task", error: null });

  const used = async () => {
    const { total } = await json<UsageReport>(tenant, "/v1/usage");
    return [total.requests, total.prompt_tokens];
  };
  await expect.poll(used, patience).toEqual([1, ended.trained_tokens]);
  // A charge that was not stored as settled would be sent again when the tenant's object is loaded again.
  await cluster.killEdge();
  await cluster.startEdge();
  expect(await json<Adapter>(tenant, "/v1/adapters/task")).toMatchObject({ examples: examples.length });
  expect(await used()).toEqual([1, ended.trained_tokens]);
  const asked = { model: "gpt2:task", prompt: `${text(60)} =>`, max_tokens: 8, temperature: 0 };
  const answered = await cluster.call(tenant, "POST", "/v1/completions", asked);
  const { choices } = (await answered.json()) as { choices: { text: string }[] };
  expect(choices[0].text).toBe(` ${answer}`);
});
