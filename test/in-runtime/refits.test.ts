/** Own adapters when other artifacts are published: real stores and cells, and a scripted backend. */
import { runInDurableObject } from "cloudflare:test";
import { HttpResponse } from "msw";
import { beforeAll, beforeEach, expect, test, vi } from "vitest";
import { type Artifacts, heldSet } from "../../edge/artifacts/artifacts.ts";
import { replacedMs } from "../../edge/tenants/tenant-memories.ts";
import type { DoneFrame, TokenFrame } from "../../shared/contracts/inference.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import {
  backendAnswers,
  backendUrl,
  edgeArtifacts,
  edgeArtifactsWith,
  errorOf,
  network,
  publish,
  saying,
  useNetwork,
} from "./harness.ts";
import { gain, ready, unavailable, useTenant } from "./tenant.ts";

useNetwork();

let before: Artifacts;
let after: Artifacts;
let served: Artifacts;
const own = useTenant("refits", () => ({ artifacts: async () => served }));
const { app, store, shown, alarm, remove } = own;

beforeAll(async () => {
  after = await edgeArtifactsWith(true);
  before = await edgeArtifacts();
  expect([before, after].map(({ manifestHash }) => heldSet(manifestHash))).toEqual([before, after]);
});
beforeEach(() => serve(before));

async function serve(set: Artifacts): Promise<void> {
  served = set;
  await publish(set.manifestHash);
}
const create = async (name: string, rest: object) => {
  const made = await own.create(rest, name);
  expect(made.status, await made.clone().text()).toBe(201);
};
const ask = async (adapter: string, rest: object = {}) => {
  const answered = await app().complete({ prompt: "aaab", max_tokens: 2, chameleon: { adapter }, ...rest });
  expect(answered.status, await answered.clone().text()).toBe(200);
  return ((await answered.json()) as CompletionResponse).system_fingerprint;
};
const fingerprint = ({ manifestHash }: Artifacts) => `fp_${manifestHash.slice(0, 12)}`;
const examples = ["aaaa", "bbb", "aab"];
const documents = ["aaab aaab aaab"];
/** A backend that makes adapters and memories, except that `refuses` answers for the artifacts published later. */
function backendMakes(refuses: { adapters?: () => Response; memories?: () => Response } = {}) {
  const isRefused = ({ manifestHash }: { manifestHash: string }) => manifestHash === after.manifestHash;
  return own.backendMakes({
    fit: (made, request) => (isRefused(request) && refuses.adapters?.()) || made,
    memory: (request) => (isRefused(request) && refuses.memories?.()) || [ready],
  });
}

test("an adapter answers with its old artifacts until all its parts are made again, then with the served ones", async () => {
  const refuses: Parameters<typeof backendMakes>[0] = {};
  const seen = backendMakes(refuses);
  await create("notes", { documents, examples });
  const old = await shown("notes");
  expect(old).toMatchObject({ outdated: false, refit: null });
  const answers = backendAnswers(({ id }) => saying(id, "ok"));

  refuses.memories = unavailable;
  await serve(after);
  const asked = async () => [await ask("notes"), await ask("auto")];
  expect(await asked()).toEqual([fingerprint(before), fingerprint(before)]);
  await alarm();
  // The adapter's examples are fitted again, but its documents wait for a backend.
  await vi.waitFor(() => expect(seen.fits.map((one) => one.manifestHash)).toContain(after.manifestHash));
  await vi.waitFor(async () =>
    expect(await shown("notes")).toMatchObject({
      outdated: true,
      refit: { status: "waiting", error: expect.any(String) },
    }),
  );
  expect(await asked()).toEqual([fingerprint(before), fingerprint(before)]);
  for (const { manifestHash, sequences } of answers.batches) {
    expect(manifestHash).toBe(before.manifestHash);
    expect(sequences[0].memories).toEqual([{ hash: old.memory!.hash }]);
    expect(JSON.stringify(sequences[0].mixture)).toContain(old.hash!);
  }

  delete refuses.memories;
  await alarm();
  await vi.waitFor(async () => expect(await shown("notes")).toMatchObject({ outdated: false, refit: null }));
  const made = await shown("notes");
  expect(made).toMatchObject({ examples: 3, gain, created: old.created, memory: { status: "ready", documents: 1 } });
  expect([made.hash, made.memory!.hash]).not.toContain(old.hash);
  expect(made.memory!.hash).not.toBe(old.memory!.hash);
  answers.batches.length = 0;
  expect(await asked()).toEqual([fingerprint(after), fingerprint(after)]);
  for (const { manifestHash, sequences } of answers.batches) {
    expect(manifestHash).toBe(after.manifestHash);
    expect(sequences[0].memories).toEqual([{ hash: made.memory!.hash }]);
    expect(JSON.stringify(sequences[0].mixture)).toContain(made.hash!);
  }
  // Each part was made once for the new artifacts.
  expect(seen.fits.filter((one) => one.manifestHash === after.manifestHash)).toHaveLength(1);

  // The old parts stay for answers that began with them, and are deleted later.
  expect(await store().file(old.hash!, { address: backendUrl, process: null })).not.toBeNull();
  expect(seen.deletions).toEqual([]);
  await own.setTime(replacedMs + 1000);
  await alarm();
  expect(await store().file(old.hash!, { address: backendUrl, process: null })).toBeNull();
  expect(seen.deletions.sort()).toEqual(
    [`/v1/adapters/${own.tenant}/${old.hash}`, `/v1/memories/${own.tenant}/${old.memory!.hash}`].sort(),
  );
});

test("fitted parts that wait for a memory stay if another adapter of the same bytes is deleted", async () => {
  const refuses: Parameters<typeof backendMakes>[0] = { memories: unavailable };
  const seen = backendMakes(refuses);
  await create("alone", { examples });
  await create("both", { documents, examples });
  await serve(after);
  await app().request("/v1/adapters");
  await alarm();
  await vi.waitFor(async () => expect(await shown("alone")).toMatchObject({ outdated: false }));
  await vi.waitFor(() => expect(seen.fits.filter((one) => one.manifestHash === after.manifestHash)).toHaveLength(2));
  const { hash } = await shown("alone");
  await vi.waitFor(async () => expect((await shown("both")).refit?.error).toEqual(expect.any(String)));
  expect((await remove("alone")).status).toBe(200);

  delete refuses.memories;
  await alarm();
  await vi.waitFor(async () => expect(await shown("both")).toMatchObject({ outdated: false, hash }));
  expect(await store().file(hash!, { address: backendUrl, process: null })).not.toBeNull();
  expect(seen.deletions).not.toContain(`/v1/adapters/${own.tenant}/${hash}`);
});

test("adapters are made again in the order of their last use, free of charge", async () => {
  const seen = backendMakes();
  const named = ["first", "second", "third"];
  for (const [i, name] of named.entries()) await create(name, { examples: [...examples, "ab".repeat(i + 1)] });
  const charged = async () => (await own.charged())[1];
  backendAnswers(({ id }) => saying(id, "ok"));
  await ask("first");
  await ask("second");
  await vi.waitFor(async () => expect(await charged()).toBeGreaterThan(0), { timeout: 10_000 });
  const tokens = await charged();
  await serve(after);
  await alarm();
  const made = seen.fits.filter((one) => one.manifestHash === after.manifestHash).map((one) => one.examples.length);
  const lengths = seen.fits
    .filter((one) => one.manifestHash === after.manifestHash)
    .map((one) => one.examples.at(-1)!.ids.length);
  expect(made).toEqual([4, 4, 4]);
  expect(lengths).toEqual([...new Set(lengths)]);
  const [, second] = seen.fits;
  expect(lengths[0]).toBe(second.examples.at(-1)!.ids.length);
  for (const name of named) expect(await shown(name)).toMatchObject({ outdated: false });
  expect(await charged()).toBe(tokens);
});

test("an adapter that cannot be made again says why, answers while its artifacts are loaded, and is refused afterwards", async () => {
  backendMakes({ adapters: () => HttpResponse.json({ error: { message: "no", code: null } }, { status: 400 }) });
  await create("notes", { examples });
  backendAnswers(({ id }) => saying(id, "ok"));
  await serve(after);
  await alarm();
  const refit = { status: "failed", error: expect.any(String) };
  await vi.waitFor(async () => expect(await shown("notes")).toMatchObject({ outdated: true, refit }));
  expect(await ask("notes")).toBe(fingerprint(before));
  const { complete } = app({ artifactsOf: async () => null });
  const refused = await errorOf(await complete({ model: "gpt2:notes", prompt: "a" }));
  expect(refused).toMatchObject({ status: 400, code: "adapter_outdated" });
});

test("while an adapter is made again, a request that lacks its artifacts or needs two sets is told when to retry", async () => {
  backendMakes({ adapters: unavailable });
  await create("notes", { examples });
  await serve(after);
  const { complete } = app({ artifactsOf: async () => null });
  const refused = await complete({ model: "gpt2:notes", prompt: "a" });
  expect(refused.headers.get("retry-after")).toBe("2");
  expect(await errorOf(refused)).toMatchObject({ status: 503, code: "backend_unavailable" });
  network.resetHandlers();
  backendMakes();
  await create("new", { examples });
  await vi.waitFor(async () => {
    await runInDurableObject(store(), (_, { storage }) => storage.setAlarm(Date.now()));
    await alarm();
    expect(await shown("notes")).toMatchObject({ outdated: false });
  });
});

test("documents added meanwhile make the memory for the served artifacts, together with the earlier ones", async () => {
  const seen = backendMakes();
  await create("notes", { documents });
  await serve(after);
  const added = await app().post("/v1/adapters/notes/documents", { documents: ["bbba"] });
  expect(added.status, await added.clone().text()).toBe(200);
  expect(await shown("notes")).toMatchObject({ outdated: false, memory: { documents: 2 } });
  expect(seen.puts.at(-1)!.body).toMatchObject({ manifestHash: after.manifestHash, documents: [{}, {}] });
});

test("a fine-tuning job that waits while artifacts are published is made for the new ones", async () => {
  own.backendMakes({ fit: unavailable });
  const file = await own.uploaded(examples.map((text) => JSON.stringify({ prompt: text, completion: "ba" })));
  const job = { model: "gpt2", training_file: file.id, suffix: "mail" };
  expect((await app().post("/v1/fine_tuning/jobs", job)).status).toBe(200);
  await alarm();
  await serve(after);
  network.resetHandlers();
  const made = backendMakes();
  await alarm();
  await vi.waitFor(async () => expect(await shown("mail")).toMatchObject({ outdated: false, gain }));
  expect(made.fits.map((one) => one.manifestHash)).toEqual([after.manifestHash]);
});

test("an object without requests notices a publication by itself", async () => {
  backendMakes();
  await create("notes", { documents, examples });
  const dueMs = await runInDurableObject(store(), (_, { storage }) => storage.getAlarm());
  expect(dueMs! - Date.now()).toBeLessThanOrEqual(600_000);
  await serve(after);
  await alarm();
  expect(await store().find("notes")).toMatchObject({ manifestHash: after.manifestHash, refit: null });
});

test("an adapter that is deleted while it is made again stays deleted, at the backends too", async () => {
  backendMakes();
  await create("notes", { examples });
  const { hash } = await shown("notes");
  await serve(after);
  const again = own.backendMakes({
    adapter: { hash: "7".repeat(64) },
    async fit(made) {
      await remove();
      return made;
    },
  });
  await alarm();
  expect(await store().list()).toEqual([]);
  await vi.waitFor(() =>
    expect(again.deletions).toEqual([
      `/v1/adapters/${own.tenant}/${hash}`,
      `/v1/adapters/${own.tenant}/${"7".repeat(64)}`,
    ]),
  );
});

test("passages are retrieved with the artifacts they were made for until their memory is made again", async () => {
  backendMakes({ memories: unavailable });
  await create("notes", { documents });
  const passage = { memory: 0, document: "text-1", start: 2, end: 9, tokens: 7, similarity: 0.9 };
  backendAnswers(({ id, promptIds }) => {
    const [first, second, done] = saying(id, "ok");
    const retrieved = { retrieved: [passage], promptTokens: promptIds.length + 9 };
    return [{ ...first, retrievedTokens: 9 } as TokenFrame, second, { ...done, ...retrieved } as DoneFrame];
  });
  await serve(after);
  expect(await ask("auto", { chameleon: { retrieve: 1 } })).toBe(fingerprint(before));
});
