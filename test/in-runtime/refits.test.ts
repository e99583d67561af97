/** Own adapters after a publication. Stores and cells are real, the backend is scripted. */
import { runInDurableObject } from "cloudflare:test";
import { HttpResponse } from "msw";
import { expect, test, vi } from "vitest";
import type { Artifacts } from "../../edge/artifacts/artifacts.ts";
import { replacedMs } from "../../edge/tenants/tenant-memories.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { expectError, jsonOf } from "./answers.ts";
import { backendAnswers, backendUrl, saying } from "./backend.ts";
import { network } from "./network.ts";
import { gain, ready, sayingWithPassages, unavailable, useTenant, useTwoSets } from "./tenant.ts";

const sets = useTwoSets();
const { serve } = sets;
const own = useTenant("refits", sets.parts);
const { app, store, created, shown, alarm, remove } = own;
const ask = async (adapter: string, rest: object = {}) => {
  const answered = app().complete({ prompt: "aaab", max_tokens: 2, chameleon: { adapter }, ...rest });
  return (await jsonOf<CompletionResponse>(answered)).system_fingerprint;
};
const fingerprint = ({ manifestHash }: Artifacts) => `fp_${manifestHash.slice(0, 12)}`;
const fileOf = (hash: string | null) => store().file(hash!, { address: backendUrl, process: null });
const dueMs = () => runInDurableObject(store(), (_, { storage }) => storage.getAlarm());
const untilShown = (name: string, expected: object) =>
  vi.waitFor(async () => expect(await shown(name)).toMatchObject(expected));
const examples = ["aaaa", "bbb", "aab"];
const documents = ["aaab aaab aaab"];
interface Refusing {
  adapters?: () => Response;
  memories?: () => Response;
}
/** A backend that makes adapters and memories. For the later artifacts, `refusing` answers instead. */
function backendMakes(refusing: Refusing = {}) {
  const isLater = ({ manifestHash }: { manifestHash: string }) => manifestHash === sets.after.manifestHash;
  const seen = own.backendMakes({
    fit: (made, request) => (isLater(request) && refusing.adapters?.()) || made,
    memory: (request) => (isLater(request) && refusing.memories?.()) || [ready],
  });
  return { ...seen, laterFits: () => seen.fits.filter(isLater) };
}

test("an adapter answers with its old artifacts until all its parts are made again, then with the served ones", async () => {
  const refuses: Refusing = {};
  const seen = backendMakes(refuses);
  await created({ documents, examples }, "notes");
  const old = await shown("notes");
  expect(old).toMatchObject({ outdated: false, refit: null });
  refuses.memories = unavailable;
  await serve(sets.after);
  const answers = async ({ manifestHash }: Artifacts, memory: string | null, hash: string | null) => {
    const { batches } = backendAnswers(({ id }) => saying(id, "ok"));
    const told = [await ask("notes"), await ask("auto")];
    expect(told).toEqual(Array(2).fill(`fp_${manifestHash.slice(0, 12)}`));
    for (const batch of batches) {
      expect(batch.manifestHash).toBe(manifestHash);
      expect(batch.sequences[0].memories).toEqual([{ hash: memory }]);
      expect(JSON.stringify(batch.sequences[0].mixture)).toContain(hash!);
    }
  };
  await answers(sets.before, old.memory!.hash, old.hash);
  await alarm();
  // The examples are fitted again, but the documents wait for a backend.
  await vi.waitFor(() => expect(seen.laterFits()).toHaveLength(1));
  await untilShown("notes", { outdated: true, refit: { status: "waiting", error: expect.any(String) } });
  await answers(sets.before, old.memory!.hash, old.hash);

  delete refuses.memories;
  await alarm();
  await untilShown("notes", { outdated: false, refit: null });
  const made = await shown("notes");
  expect(made).toMatchObject({ examples: 3, gain, created: old.created, memory: { status: "ready", documents: 1 } });
  expect([made.hash, made.memory!.hash]).not.toContain(old.hash);
  expect(made.memory!.hash).not.toBe(old.memory!.hash);
  await answers(sets.after, made.memory!.hash, made.hash);
  // The examples were fitted once, although the refit waited.
  expect(seen.laterFits()).toHaveLength(1);

  // The old memory and fit stay for answers that began with them.
  expect(await fileOf(old.hash)).not.toBeNull();
  expect(seen.deletions).toEqual([]);
  await own.setTime(replacedMs + 1000);
  await alarm();
  expect(await fileOf(old.hash)).toBeNull();
  const parts = [`adapters/${own.tenant}/${old.hash}`, `memories/${own.tenant}/${old.memory!.hash}`];
  expect(seen.deletions.sort()).toEqual(parts.map((part) => `/v1/${part}`));
});

test("fitted parts that wait for a memory stay if another adapter of the same bytes is deleted", async () => {
  const refuses: Refusing = { memories: unavailable };
  const seen = backendMakes(refuses);
  await created({ examples }, "alone");
  await created({ documents, examples }, "both");
  await serve(sets.after);
  await app().request("/v1/adapters");
  await alarm();
  await untilShown("alone", { outdated: false });
  await vi.waitFor(() => expect(seen.laterFits()).toHaveLength(2));
  const { hash } = await shown("alone");
  await untilShown("both", { refit: { error: expect.any(String) } });
  expect((await remove("alone")).status).toBe(200);

  delete refuses.memories;
  await alarm();
  await untilShown("both", { outdated: false, hash });
  expect(await fileOf(hash)).not.toBeNull();
  expect(seen.deletions).not.toContain(`/v1/adapters/${own.tenant}/${hash}`);
});

test("adapters are made again in the order of their last use, free of charge", async () => {
  const seen = backendMakes();
  const named = ["first", "second", "third"];
  for (const [i, name] of named.entries()) await created({ examples: [...examples, "ab".repeat(i + 1)] }, name);
  const charged = async () => (await own.charged())[1];
  backendAnswers(({ id }) => saying(id, "ok"));
  await ask("first");
  await ask("second");
  await vi.waitFor(async () => expect(await charged()).toBeGreaterThan(0), { timeout: 10_000 });
  const tokens = await charged();
  await serve(sets.after);
  await alarm();
  const later = seen.laterFits().map(({ examples }) => examples);
  expect(later.map(({ length }) => length)).toEqual([4, 4, 4]);
  const lengths = later.map((one) => one.at(-1)!.ids.length);
  expect(new Set(lengths).size).toBe(3);
  expect(lengths[0]).toBe(seen.fits[1].examples.at(-1)!.ids.length);
  for (const name of named) expect(await shown(name)).toMatchObject({ outdated: false });
  expect(await charged()).toBe(tokens);
});

test("an adapter that cannot be made again says why, answers while its artifacts are loaded, and is refused afterwards", async () => {
  backendMakes({ adapters: () => HttpResponse.json({ error: { message: "no", code: null } }, { status: 400 }) });
  await created({ examples }, "notes");
  backendAnswers(({ id }) => saying(id, "ok"));
  await serve(sets.after);
  await alarm();
  const refit = { status: "failed", error: expect.any(String) };
  await untilShown("notes", { outdated: true, refit });
  expect(await ask("notes")).toBe(fingerprint(sets.before));
  const { complete } = app({ artifactsOf: async () => null });
  await expectError(complete({ model: "gpt2:notes", prompt: "a" }), { status: 400, code: "adapter_outdated" });
});

test("while an adapter is made again, a request that lacks its artifacts or needs two sets is told when to retry", async () => {
  backendMakes({ adapters: unavailable });
  await created({ examples }, "notes");
  await serve(sets.after);
  const { complete } = app({ artifactsOf: async () => null });
  const refused = { status: 503, code: "backend_unavailable", retryAfter: "2" };
  await expectError(complete({ model: "gpt2:notes", prompt: "a" }), refused);
  network.resetHandlers();
  backendMakes();
  await created({ examples }, "new");
  await vi.waitFor(async () => {
    await runInDurableObject(store(), (_, { storage }) => storage.setAlarm(Date.now()));
    await alarm();
    expect(await shown("notes")).toMatchObject({ outdated: false });
  });
});

test("documents added meanwhile make the memory for the served artifacts, together with the earlier ones", async () => {
  const seen = backendMakes();
  await created({ documents }, "notes");
  await serve(sets.after);
  await jsonOf(app().post("/v1/adapters/notes/documents", { documents: ["bbba"] }));
  expect(await shown("notes")).toMatchObject({ outdated: false, memory: { documents: 2 } });
  expect(seen.puts.at(-1)!.body).toMatchObject({ manifestHash: sets.after.manifestHash, documents: [{}, {}] });
});

test("a fine-tuning job that waits while artifacts are published is made for the new ones", async () => {
  own.backendMakes({ fit: unavailable });
  const file = await own.uploaded(examples.map((text) => JSON.stringify({ prompt: text, completion: "ba" })));
  const job = { model: "gpt2", training_file: file.id, suffix: "mail" };
  expect((await app().post("/v1/fine_tuning/jobs", job)).status).toBe(200);
  await alarm();
  await serve(sets.after);
  network.resetHandlers();
  const made = backendMakes();
  await alarm();
  await untilShown("mail", { outdated: false, gain });
  expect([made.fits.length, made.laterFits().length]).toEqual([1, 1]);
});

test("an object without requests notices a publication by itself", async () => {
  backendMakes();
  await created({ documents, examples }, "notes");
  expect((await dueMs())! - Date.now()).toBeLessThanOrEqual(600_000);
  await serve(sets.after);
  await alarm();
  expect(await store().find("notes")).toMatchObject({ manifestHash: sets.after.manifestHash, refit: null });
});

test("an adapter that is deleted while it is made again stays deleted, at the backends too", async () => {
  backendMakes();
  await created({ examples }, "notes");
  const { hash } = await shown("notes");
  await serve(sets.after);
  const hashOfLater = "7".repeat(64);
  const again = own.backendMakes({
    adapter: { hash: hashOfLater },
    async fit(made) {
      await remove();
      return made;
    },
  });
  await alarm();
  expect(await store().list()).toEqual([]);
  const paths = [hash, hashOfLater].map((one) => `/v1/adapters/${own.tenant}/${one}`);
  await vi.waitFor(() => expect(again.deletions).toEqual(paths));
});

test("passages are retrieved with the artifacts they were made for until their memory is made again", async () => {
  backendMakes({ memories: unavailable });
  await created({ documents }, "notes");
  backendAnswers((sequence) => sayingWithPassages(sequence));
  await serve(sets.after);
  expect(await ask("auto", { chameleon: { retrieve: 1 } })).toBe(fingerprint(sets.before));
});
