/** OpenAI's fine-tuning jobs: real stores, and a backend that is scripted. */
import { evictDurableObject } from "cloudflare:test";
import { HttpResponse } from "msw";
import { beforeAll, describe, expect, test, vi } from "vitest";
import {
  checkpointListSchema,
  type Job,
  type JobEventObject,
  jobEventListSchema,
  jobListSchema,
  jobSchema,
} from "../../shared/contracts/fine-tuning.ts";
import type { AdapterAnswer } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { plans } from "../../shared/contracts/tenants.ts";
import { expectError, jsonOf, type MaybePromise } from "./answers.ts";
import { backendAnswers, saying } from "./backend.ts";
import { manifestHash, publish } from "./model.ts";
import { network } from "./network.ts";
import { gain, unavailable, useTenant } from "./tenant.ts";

beforeAll(() => publish());

let ids = 0;
const own = useTenant("tuning", () => ({ newId: () => `id-${String(ids++).padStart(16, "0")}` }));
const { app, store, json, rows, charged } = own;
const backendMakes = (adapter: Partial<AdapterAnswer> = {}, fit?: (made: Response) => MaybePromise<Response>) =>
  own.backendMakes({ adapter, fit });
const endless = () =>
  new HttpResponse(new ReadableStream({ pull: () => new Promise(() => undefined) }), { status: 201 });

const texts = ["ab", "aab", "b ab"];
const pair = (i: number) => JSON.stringify({ prompt: "aab".repeat(i + 1), completion: "ba" });
const uploaded = async (count = 3) => (await own.uploaded(Array.from({ length: count }, (_, i) => pair(i)))).id;
const create = async (rest: object = {}) =>
  app().post("/v1/fine_tuning/jobs", { model: "gpt2", training_file: await uploaded(), suffix: "answers", ...rest });
const created = async (rest?: object): Promise<Job> => jobSchema.strict().parse(await jsonOf(create(rest)));
async function running(): Promise<string> {
  const { id } = await created();
  await until(id, { status: "running" });
  return id;
}
const get = (path: string, init?: RequestInit) => app().request(`/v1/fine_tuning/jobs${path}`, init);
const cancel = (id: string) => app().post(`/v1/fine_tuning/jobs/${id}/cancel`, "");
const shown = async (id: string) => jobSchema.strict().parse(await json(`/v1/fine_tuning/jobs/${id}`));
const until = (id: string, expected: Partial<Job>) =>
  vi.waitFor(async () => expect(await shown(id)).toMatchObject(expected), { timeout: 5000 });
const eventPage = async (id: string, query = "") =>
  jobEventListSchema.strict().parse(await json(`/v1/fine_tuning/jobs/${id}/events${query}`));
const eventsOf = async (id: string) => (await eventPage(id)).data;
const tokensIn = (examples: { ids: number[] }[]) => examples.reduce((sum, { ids }) => sum + ids.length, 0);

describe("a job", () => {
  test("makes an adapter that its name serves, is charged by trained tokens once, and tells what it did", async () => {
    const { fits } = backendMakes();
    const [training_file, validation_file, metadata] = [await uploaded(4), await uploaded(2), { team: "a" }];
    const asked = { training_file, validation_file, metadata, seed: 5 };
    const job = await created(asked);
    expect(job).toMatchObject({
      ...{ ...asked, status: "queued", model: "gpt2", fine_tuned_model: null, finished_at: null, trained_tokens: null },
      ...{ organization_id: own.tenant, result_files: [] },
    });
    await until(job.id, { status: "succeeded", fine_tuned_model: "gpt2:answers", error: null });
    expect(fits).toMatchObject([{ tenant: own.tenant, manifestHash: await manifestHash() }]);
    expect([fits[0].examples.length, fits[0].validation?.length]).toEqual([4, 2]);
    const tokens = tokensIn([...fits[0].examples, ...fits[0].validation!]);
    expect((await shown(job.id)).trained_tokens).toBe(tokens);
    await vi.waitFor(async () => expect(await charged()).toEqual([1, tokens]));

    const data = await eventsOf(job.id);
    expect(data.map(({ level, type, message }) => [level, type, message]).reverse()).toEqual([
      ["info", "message", `Training and validation file are valid: 4 examples, ${tokens} tokens. The job is queued.`],
      ["info", "message", "The job has started."],
      ["info", "metrics", "Step 0: training loss 2.000, held-out loss 2.100"],
      ["info", "metrics", "Step 8: training loss 1.500, held-out loss 1.750"],
      ["info", "metrics", "Gain on 400 held-out tokens: 0.250 nats a token, 95% interval 0.200 to 0.300."],
      ["info", "message", "The job has succeeded: gpt2:answers can be used."],
    ]);
    expect(data[2].data).toEqual({ step: 8, train_loss: 1.5, valid_loss: 1.75 });
    expect(await own.shown("answers")).toMatchObject({ examples: 4, gain });

    backendAnswers(({ id }) => saying(id, "ba"));
    const answered = await jsonOf(app().complete({ model: "gpt2:answers", prompt: "aab", max_tokens: 2 }));
    expect(answered).toMatchObject({ choices: [{ text: "ba" }] });
  });

  test("of a tenant with limits counts in them when it ends, not before", async () => {
    const limited = app(own.keysWith({ limits: { ...plans.standard, tokensPerMinute: 100 } }));
    const left = async () => {
      const answered = await limited.complete({ prompt: "a", max_tokens: 0 });
      await answered.text();
      return Number(answered.headers.get("x-ratelimit-remaining-tokens"));
    };
    backendAnswers(({ id }) => [{ ...saying(id, "").at(-1)!, completionTokens: 0 } as never]);
    const seen = backendMakes({}, endless);
    const id = await running();
    const before = await left();
    await cancel(id);
    const tokens = tokensIn(seen.fits[0].examples);
    await vi.waitFor(async () => expect(before - (await left())).toBeGreaterThanOrEqual(tokens));
    const more = { model: "gpt2", training_file: await uploaded(12), suffix: "more" };
    await expectError(limited.post("/v1/fine_tuning/jobs", more), { status: 429 });
  });

  test("that gained nothing says that the base is served", async () => {
    backendMakes({ gain: null, kept: false, losses: [] });
    const { id } = await created();
    await until(id, { status: "succeeded", fine_tuned_model: "gpt2:answers" });
    const [, told] = await eventsOf(id);
    expect(told).toMatchObject({ level: "warn", message: expect.stringContaining("The base is served") });
    const { batches } = backendAnswers(({ id: sequence }) => saying(sequence, "ba"));
    await jsonOf(app().complete({ model: "gpt2:answers", prompt: "aab", max_tokens: 2 }));
    expect(batches.map(({ centroidId, adapterHash }) => [centroidId, adapterHash])).toEqual([[null, undefined]]);
  });

  test("without a suffix is given one", async () => {
    backendMakes();
    const { id } = await created({ suffix: undefined });
    const fine_tuned_model = expect.stringMatching(/^gpt2:ft-[\w-]{16}$/);
    await until(id, { status: "succeeded", fine_tuned_model });
  });

  test("is tried again while no backend takes it, also after its object was evicted", async () => {
    const first = backendMakes({}, unavailable);
    const { id } = await created();
    await vi.waitFor(() => expect(first.fits).toHaveLength(1));
    const told = { level: "warn", message: expect.stringContaining("starting") };
    await vi.waitFor(async () => expect((await eventsOf(id))[0]).toMatchObject(told));
    expect(await shown(id)).toMatchObject({ status: "queued", error: null });
    expect(await charged()).toEqual([0, 0]);

    network.resetHandlers();
    const second = backendMakes();
    await evictDurableObject(store());
    await until(id, { status: "succeeded" });
    expect(second.fits).toEqual(first.fits);
    await vi.waitFor(async () => expect((await charged())[0]).toBe(1));
  });

  test("that no backend has made in a day fails", async () => {
    backendMakes({}, unavailable);
    const { id } = await created();
    await vi.waitFor(async () => expect((await eventsOf(id))[0].level).toBe("warn"));
    await own.setTime(86_500_000);
    await own.alarm();
    await until(id, { status: "failed", error: { code: "backend_unavailable", param: null } as never });
    expect(await charged()).toEqual([0, 0]);
  });

  test("that a backend refuses fails, costs nothing, and its name is free again", async () => {
    backendMakes({}, () => HttpResponse.json({ error: { message: "no", code: null } }, { status: 400 }));
    const { id } = await created();
    await until(id, { status: "failed", fine_tuned_model: null, trained_tokens: null });
    expect(await charged()).toEqual([0, 0]);
    network.resetHandlers();
    backendMakes();
    await until((await created()).id, { status: "succeeded" });
  });

  test("that is cancelled ends at the backend, and pays for what has begun", async () => {
    const seen = backendMakes({}, endless);
    const id = await running();
    const tokens = tokensIn(seen.fits[0].examples);
    const cancelled = jobSchema.strict().parse(await jsonOf(cancel(id)));
    expect(cancelled).toMatchObject({ status: "cancelled", trained_tokens: tokens });
    await vi.waitFor(() => expect(seen.aborted).toBe(1));
    await vi.waitFor(async () => expect(await charged()).toEqual([1, tokens]));
    await expectError(cancel(id), { status: 400, mentions: "has ended already" });
    expect((await app().request("/v1/models/gpt2:answers")).status).toBe(404);
  });

  test("and its files are out of other tenants' reach", async () => {
    backendMakes();
    const { id, training_file } = await created();
    const theirs = { headers: own.theirs };
    const message = `You have no fine-tuning job "${id}".`;
    for (const path of ["", "/events", "/checkpoints", "/cancel"]) {
      const method = path === "/cancel" ? "POST" : "GET";
      await expectError(get(`/${id}${path}`, { method, ...theirs }), { status: 404, message });
    }
    const stolen = app().post("/v1/fine_tuning/jobs", { model: "gpt2", training_file }, theirs);
    await expectError(stolen, { status: 400, param: "training_file", mentions: "you have no such file" });
    expect(await jsonOf(get("", theirs))).toMatchObject({ data: [] });
  });

  test("does not delay the tenant's documents, while it runs", async () => {
    backendMakes({}, endless);
    const id = await running();
    const documents = ["ab".repeat(limits.memoryTokensAtOnce)];
    expect((await own.create({ documents })).status).toBe(202);
    await vi.waitFor(async () => expect(await own.shown()).toMatchObject({ adapts: true }));
    await cancel(id);
  });

  test("that finds its name taken fails, and pays for what was made", async () => {
    const seen = backendMakes({}, async (made) => {
      if (seen.fits.length === 1) await own.create({ examples: texts }, "answers");
      return made;
    });
    const { id } = await created();
    await until(id, { status: "failed", error: { code: "invalid_request", param: "name" } as never });
    expect((await shown(id)).error!.message).toContain("You have an adapter answers already");
    expect((await shown(id)).trained_tokens).toBeGreaterThan(0);
  });

  test("is erased with its tenant, while it runs", async () => {
    const seen = backendMakes({}, endless);
    const id = await running();
    await store().erase();
    await vi.waitFor(() => expect(seen.aborted).toBe(1));
    expect((await get(`/${id}`)).status).toBe(404);
    for (const table of ["records", "documentParts", "ownAdapters"]) expect(await own.valuesIn(table)).toEqual([]);
  });
});

test("examples are kept with their adapter, and deleted with it by its model's name", async () => {
  const { deletions } = backendMakes();
  const { id } = await created();
  await until(id, { status: "succeeded" });
  const examples = [{ prompt: "aab", completion: "ba" }, "abab", "abb"];
  await own.create({ examples }, "direct");
  const kept = async () => {
    const found = await rows<{ hash: string }>("SELECT hash FROM documentParts WHERE kind = 'examples' ORDER BY hash");
    return found.map(({ hash }) => hash);
  };
  expect(await kept()).toEqual(["examples:answers", "examples:direct"]);
  const remove = (model: string, headers = {}) => app().request(`/v1/models/${model}`, { method: "DELETE", headers });
  await expectError(remove("gpt2:answers", own.theirs), { status: 404, code: "model_not_found" });
  expect(await jsonOf(remove("gpt2:answers"))).toEqual({ id: "gpt2:answers", object: "model", deleted: true });
  expect(await kept()).toEqual(["examples:direct"]);
  expect(deletions).toHaveLength(1);
  expect((await app().request("/v1/models/gpt2:answers")).status).toBe(404);
  await expectError(remove("gpt2:answers"), { status: 404, code: "model_not_found" });
  for (const model of ["gpt2", "gpt2:auto"]) await expectError(remove(model), { status: 403 });
});

test("jobs and events are listed by page, the latest first", async () => {
  backendMakes();
  const jobs: Job[] = [];
  for (const suffix of ["a1", "b1", "d1"]) jobs.push(await created({ suffix }));
  const pageOf = async (query: string) => {
    const { data, has_more } = jobListSchema.strict().parse(await jsonOf(get(query)));
    return [has_more, ...data.map(({ id }) => jobs.findIndex((one) => one.id === id))];
  };
  expect(await pageOf("")).toEqual([false, 2, 1, 0]);
  expect(await pageOf("?limit=2")).toEqual([true, 2, 1]);
  expect(await pageOf(`?after=${jobs[1].id}`)).toEqual([false, 0]);
  await until(jobs[2].id, { status: "succeeded" });
  const events: JobEventObject[] = [];
  for (let after = ""; ; after = `&after=${events.at(-1)!.id}`) {
    const page = await eventPage(jobs[2].id, `?limit=2${after}`);
    events.push(...page.data);
    if (!page.has_more) break;
  }
  expect(events).toEqual(await eventsOf(jobs[2].id));
  expect(events.length).toBeGreaterThan(4);
  const checkpoints = await jsonOf(get(`/${jobs[0].id}/checkpoints`));
  expect(checkpointListSchema.strict().parse(checkpoints).data).toEqual([]);
  await expectError(get("?metadata[team]=a"), { status: 400, param: "metadata" });
});

describe("is refused by name:", () => {
  const auto = { n_epochs: "auto", batch_size: "auto", learning_rate_multiplier: "auto" };
  const batches = { method: { type: "supervised", supervised: { hyperparameters: { ...auto, batch_size: 2 } } } };
  const metadata = Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, ""]));
  const cases: [string, object, string, string][] = [
    ["a file that is not there", { training_file: "file-0" }, "training_file", "you have no such file"],
    ["another validation file", { validation_file: "file-0" }, "validation_file", "you have no such file"],
    ["a model that is no base", { model: "gpt2:auto" }, "model", 'jobs begin from the base, "gpt2"'],
    ["epochs", { hyperparameters: { n_epochs: 3 } }, "hyperparameters.n_epochs", "hyperparameters.n_epochs is 3"],
    ["a batch size", batches, "method.supervised.hyperparameters.batch_size", 'it must be "auto"'],
    ["another method", { method: { type: "dpo" } }, "method.type", 'method.type is "dpo"; it must be "supervised"'],
    ["an integration", { integrations: [{ type: "wandb" }] }, "integrations", "integrations"],
    ["a reserved suffix", { suffix: "auto" }, "suffix", 'suffix is "auto"'],
    ["a suffix of other letters", { suffix: "My model" }, "suffix", 'suffix is "My model"'],
    ["too much metadata", { metadata }, "metadata", "16"],
  ];
  test.each(cases)("%s", async (_, rest, param, message) => {
    const { fits } = backendMakes();
    await expectError(create(rest), { status: 400, param: expect.stringContaining(param), mentions: message });
    expect(await jsonOf(get(""))).toMatchObject({ data: [] });
    expect(fits).toEqual([]);
  });

  test("a model that is not there, and one example", async () => {
    await expectError(create({ model: "gpt-4o" }), { status: 404, code: "model_not_found" });
    const one = create({ training_file: await uploaded(1) });
    await expectError(one, { status: 400, param: "training_file", mentions: "has 1 example, the minimum is 2" });
  });

  test("a name that is taken, by an adapter or by a job", async () => {
    backendMakes({}, endless);
    const id = await running();
    await expectError(create(), { status: 400, param: "suffix", mentions: id });
    network.resetHandlers();
    backendMakes();
    await own.create({ examples: texts }, "taken");
    await expectError(create({ suffix: "taken" }), { status: 400, param: "suffix" });
  });

  test("more jobs than may be open", async () => {
    backendMakes({}, unavailable);
    const training_file = await uploaded();
    for (let i = 0; i < limits.openTuningJobs; i++) await created({ training_file, suffix: undefined });
    const quota = { status: 403, code: "adapter_quota_exceeded", mentions: "64" };
    await expectError(create({ training_file, suffix: undefined }), quota);
  });

  test.each(["pause", "resume"])("to %s", async (what) => {
    const asked = app().post(`/v1/fine_tuning/jobs/ftjob-1/${what}`, "");
    await expectError(asked, { status: 400, mentions: "cannot be paused or resumed" });
  });
});
