/** kill -9 of the edge, of both backends or of their engines in the middle of a fine-tuning job: it goes on, and is charged once. */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { FileObject, Job, JobEventObject } from "../../shared/contracts/fine-tuning.ts";
import type { Adapter, UsageReport } from "../../shared/contracts/responses.ts";
import { seededRandom } from "../support/steps.ts";
import { type MemoryCluster, startMemoryCluster } from "./memory-cluster.ts";

const seed = 3604;
const random = seededRandom(seed);
const words = "harbour ledger stair lantern copper gull quay rope master tide".split(" ");
const text = (length: number) => Array.from({ length }, () => words[Math.floor(random() * words.length)]).join(" ");
const answer = "zorblax";

const victims = ["edge", "backend", "engine"] as const;
const patience = { timeout: 120_000, interval: 20 };

let cluster: MemoryCluster;
beforeAll(async () => {
  cluster = await startMemoryCluster(victims);
});
afterAll(() => cluster?.stop());

const json = async <T>(tenant: string, route: string) => (await (await cluster.call(tenant, "GET", route)).json()) as T;

async function kill(victim: (typeof victims)[number]): Promise<void> {
  if (victim === "edge") {
    await cluster.killEdge();
    await cluster.startEdge();
  } else if (victim === "backend") {
    await Promise.all([0, 1].map((one) => cluster.restartBackend(one, "SIGKILL")));
  } else for (const backend of [0, 1]) cluster.killEngine(backend);
}

test.each(victims)(`%s (seed ${seed})`, async (victim) => {
  const tenant = victim;
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
  // Or it was not in the middle.
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
  // What is to be counted is tried again when the object is loaded.
  await cluster.killEdge();
  await cluster.startEdge();
  expect(await json<Adapter>(tenant, "/v1/adapters/task")).toMatchObject({ examples: examples.length });
  expect(await used()).toEqual([1, ended.trained_tokens]);
  const asked = { model: "gpt2:task", prompt: `${text(60)} =>`, max_tokens: 8, temperature: 0 };
  const answered = await cluster.call(tenant, "POST", "/v1/completions", asked);
  const { choices } = (await answered.json()) as { choices: { text: string }[] };
  expect(choices[0].text).toBe(` ${answer}`);
});
