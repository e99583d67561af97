/** Imports of a tiny GPT-2 from a hub that MSW plays: which files come in, and what is left after cuts and refusals. */
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { getResponse, http } from "msw";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { type ImportOptions, importModel } from "../../gpu-backend/models/import/import-model.ts";
import type { Progress } from "../../gpu-backend/training/progress.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { cutAfter, FakeHub, refuse } from "../support/fake-hub.ts";
import type { gpt2TokenizerJson } from "../support/gpt2-tokenizer.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

const disk = vi.hoisted(() => ({ freeBytes: null as number | null }));
vi.mock("node:fs/promises", async (importOriginal) => {
  const system = await importOriginal<typeof import("node:fs/promises")>();
  const statfs = async (path: string) => {
    const { freeBytes } = disk;
    return freeBytes === null ? system.statfs(path) : { blocks: 1_000_000, bavail: freeBytes, bsize: 1 };
  };
  return { ...system, statfs };
});

const origin = "https://hub.test";
const id = "someone/tiny-gpt2";
const weights = "model.safetensors";
const needed = ["config.json", weights, "tokenizer.json"];
/** The file that an import computes, besides the artifacts. */
const made = "smoothing.safetensors";
const silent: Progress = { stage() {}, advance() {}, note() {}, end() {} };

const scratch = temporaryFolder();
await writeTinyModel(join(scratch, "original"), 11);
const read = async (name: string) => [name, new Uint8Array(await readFile(join(scratch, "original", name)))] as const;
const original = Object.fromEntries(await Promise.all(needed.map(read)));

let hub: FakeHub;
const handlers = [http.all(`${origin}/*`, ({ request }) => hub.handle(request))];
/** MSW's handlers are called directly, because the sockets of `msw/node` cannot slow a body for a slow reader. */
const mockedFetch: typeof fetch = async (input, init) => {
  const request = new Request(input, init);
  const response = await getResponse(handlers, request);
  return response ?? expect.fail(`unexpected request for ${request.url}`);
};

/** The folder that a test imports to; the waits between tries, and the lines the importer printed. */
let folder: string;
let waitsMs: number[];
let notes: string[];
beforeEach(() => {
  const extra = { "README.md": new TextEncoder().encode("# tiny"), "pytorch_model.bin": new Uint8Array(9) };
  hub = new FakeHub(id, { ...original, ...extra });
  folder = join(temporaryFolder(), "model");
  waitsMs = [];
  notes = [];
  disk.freeBytes = null;
});

function run(options: Partial<ImportOptions> = {}, access: { token?: string; signal?: AbortSignal } = {}) {
  return importModel(
    { source: id, out: folder, revision: null, ...options },
    {
      endpoint: origin,
      token: access.token ?? null,
      fetch: mockedFetch,
      wait: async (ms) => void waitsMs.push(ms),
      now: () => new Date("2026-01-01T00:00:00Z"),
      note: (line) => void notes.push(line),
      signal: access.signal,
    },
    silent,
  );
}

/** The message of a refusal; it must be one line. */
async function refusal(...args: Parameters<typeof run>): Promise<string> {
  const { message } = await run(...args).then(
    () => expect.fail("the import succeeded"),
    (error: Error) => error,
  );
  expect(message).not.toContain("\n");
  return message;
}

const filesIn = async (directory: string) => (await readdir(directory).catch(() => [])).sort();
const partial = async () => (await filesIn(folder)).find((name) => name.endsWith(".partial"));
const rangesOf = (name: string) => hub.requestsFor(name).map(({ headers }) => headers.get("range"));

describe("a whole import", () => {
  test("brings the model's files and no others, makes one centroid that is off, and a second time makes what is missing without a fetch", async () => {
    const { manifest, keptArtifacts } = await run();
    expect(await filesIn(folder)).toEqual(["artifacts", ...[...needed, made].sort()]);
    for (const name of needed) {
      expect(Buffer.compare(await readFile(join(folder, name)), original[name]), name).toBe(0);
    }
    expect(keptArtifacts).toBe(false);
    expect(manifest.model).toMatchObject({ name: id, servedAs: "tiny-gpt2", hiddenSize: 32 });
    expect(manifest.centroids).toMatchObject([{ id: "c0", scale: 0, gain: null }]);
    expect(manifest.training).toBeNull();
    expect(waitsMs).toEqual([]);
    const requests = hub.requestsFor(weights).length;
    await rm(join(folder, made));
    expect(await run()).toMatchObject({ keptArtifacts: true, manifest });
    expect(await filesIn(folder)).toContain(made);
    expect(hub.requestsFor(weights)).toHaveLength(requests);
    // A new import makes the same artifacts.
    await rm(folder, { recursive: true });
    expect((await run()).manifest).toEqual(manifest);
  });

  test("takes the model's chat template into the manifest, and refuses one that cannot be used before the weights", async () => {
    const withTemplate = (chat_template: string) => {
      const config = new TextEncoder().encode(JSON.stringify({ chat_template }));
      return new FakeHub(id, { ...original, "tokenizer_config.json": config });
    };
    const template = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}";
    hub = withTemplate(template);
    expect((await run()).manifest.model.chatTemplate).toBe(template);

    folder = `${folder}-broken`;
    hub = withTemplate("{% for %}");
    expect(await refusal()).toContain(`the chat template of ${folder} cannot be used`);
    expect(hub.requestsFor(weights)).toHaveLength(0);
  });

  test("the backend serves it at once: base and centroid give the same token", async () => {
    await run();
    const backend = stopAtEnd(await startBackend({ MODEL_DIR: folder, THREADS: "1" }));
    const tokens = async (centroidId: string | null) => {
      const frames = await backend.frames(centroidId, [sequenceRequest("s", [1, 2, 3], { maxTokens: 5 })]);
      return frames.flatMap((frame) => (frame.type === "token" ? [frame.tokenId] : []));
    };
    const base = await tokens(null);
    expect(base).toHaveLength(5);
    expect(await tokens("c0")).toEqual(base);
  });

  test("a short name is followed to the repository that the hub means", async () => {
    const { manifest } = await run({ source: "tiny-gpt2" });
    expect(manifest.model.name).toBe("tiny-gpt2");
  });
});

describe("a download that breaks off", () => {
  test("goes on from where it broke, in the same run", async () => {
    hub.fail(/safetensors$/, cutAfter(1000));
    hub.fail(/safetensors$/, cutAfter(500, "end"));
    await run();
    expect(rangesOf(weights)).toEqual([null, "bytes=1000-", "bytes=1500-"]);
    expect(Buffer.compare(await readFile(join(folder, weights)), original[weights])).toBe(0);
    expect(waitsMs).toEqual([1000, 1000]);
  });

  test("gives up after five tries without a byte; the next run goes on", async () => {
    hub.fail(/safetensors$/, cutAfter(1000));
    hub.fail(/safetensors$/, cutAfter(0), 5);
    expect(await refusal()).toMatch(/model\.safetensors broke off at 1000 of \d+ bytes, 5 times \(connection reset\)/);
    expect(await filesIn(folder)).toEqual(["config.json", expect.stringMatching(/partial$/), "tokenizer.json"]);
    hub.seen.length = 0;
    await run();
    expect(rangesOf(weights)).toEqual(["bytes=1000-"]);
    expect(await partial()).toBeUndefined();
  });

  test("Ctrl-C keeps what is there; the next run goes on", async () => {
    const interruption = new AbortController();
    hub.fail(
      /safetensors$/,
      cutAfter(2000, "break", () => interruption.abort(new Error("interrupted"))),
    );
    expect(await refusal({}, { signal: interruption.signal })).toBe("interrupted");
    expect((await readFile(join(folder, (await partial())!))).length).toBe(2000);
    hub.seen.length = 0;
    await run();
    expect(rangesOf(weights)).toEqual(["bytes=2000-"]);
  });

  test("starts anew where the server knows no ranges", async () => {
    hub.knowsRanges = false;
    hub.fail(/safetensors$/, cutAfter(1000));
    await run();
    expect(Buffer.compare(await readFile(join(folder, weights)), original[weights])).toBe(0);
  });

  test("refuses a server that answers another range than the one asked for", async () => {
    hub.fail(/safetensors$/, cutAfter(1000));
    hub.fail(/safetensors$/, () => new Response("x", { status: 206, headers: { "content-range": "bytes 0-0/1" } }));
    expect(await refusal()).toMatch(/asked for bytes from 1000 and answered with "bytes 0-0\/1"/);
  });
});

describe("content that is not what the hub lists", () => {
  test.each([weights, "config.json"])("%s with another hash is thrown away", async (name) => {
    hub.fail(new RegExp(`/${name}$`), () => {
      const changed = original[name].slice();
      changed[changed.length - 1] ^= 1;
      return new Response(changed);
    });
    expect(await refusal()).toMatch(new RegExp(`${name} has the (sha256|git-blob) hash \\w+, the hub lists \\w+`));
    expect(await filesIn(folder)).not.toContain(name);
    expect(await partial()).toBeUndefined();
    await run();
  });

  test("more bytes than listed are refused", async () => {
    hub.fail(/safetensors$/, () => new Response(new Uint8Array(original[weights].length + 1)));
    expect(await refusal()).toMatch(/sends more than the \d+ bytes that the hub lists/);
  });

  test("a page that is no hub's answer", async () => {
    hub.fail(/api\/models/, () => new Response("<html>log in to the network</html>"));
    expect(await refusal()).toMatch(/^https:\/\/hub\.test does not answer as a Hugging Face hub does/);
  });
});

describe("refusals of the hub", () => {
  test.each<[string, RegExp, Parameters<typeof refuse>, { token?: string }, RegExp]>([
    ["no such model", /api/, [401, "RepoNotFound"], {}, /tiny-gpt2: .*check the name, or set HF_TOKEN/],
    ["a bad token", /api/, [401, ""], { token: "x" }, /tiny-gpt2: .*does not accept HF_TOKEN/],
    ["a token without rights", /api/, [403, ""], { token: "x" }, /HF_TOKEN may not read it/],
    ["a missing model", /api/, [404, "RepoNotFound"], {}, /tiny-gpt2 is not on https:\/\/hub\.test/],
    ["a gated model", /resolve/, [403, "GatedRepo"], {}, /tiny-gpt2 is gated: .*HF_TOKEN/],
  ])("%s", async (_, path, answer, access, message) => {
    hub.fail(path, () => refuse(...answer));
    expect(await refusal({}, access)).toMatch(message);
    expect(waitsMs).toEqual([]);
    expect((await filesIn(folder)).filter((name) => needed.includes(name))).toEqual([]);
  });

  test("no such revision", async () => {
    expect(await refusal({ revision: "v9" })).toMatch(/tiny-gpt2 has no such revision \(HTTP 404, .*v9\)/);
  });

  test("429 is waited out, as long as the hub says", async () => {
    hub.fail(/api/, () => refuse(429, "", { "retry-after": "7" }));
    hub.fail(/api/, () => refuse(429, "", { "retry-after": "Thu, 01 Jan 2026 00:00:09 GMT" }));
    hub.fail(/api/, () => refuse(429, "", { ratelimit: '"api";r=0;t=11' }));
    hub.fail(/safetensors$/, () => refuse(503, ""));
    await run();
    expect(waitsMs).toEqual([7000, 9000, 11000, 1000]);
    expect(notes[0]).toBe("hub.test answered 429; trying again in 7 s");
  });

  test("429 without an end is told after five tries, or at once where the wait is too long", async () => {
    hub.fail(/api/, () => refuse(429, ""), 5);
    expect(await refusal()).toMatch(/hub\.test limits requests: tried 5 times, and asks to wait 16 s more \(HTTP 429/);
    expect(waitsMs).toEqual([1000, 2000, 4000, 8000]);
    hub.fail(/api/, () => refuse(429, "", { "retry-after": "3600" }));
    expect(await refusal()).toMatch(/tried once, and asks to wait 3600 s more/);
  });
});

describe("models that cannot be served", () => {
  const config = JSON.parse(new TextDecoder().decode(original["config.json"]));
  const setConfig = (change: object) => setText("config.json", JSON.stringify({ ...config, ...change }));
  const setText = (name: string, text: string) => void hub.files.set(name, new TextEncoder().encode(text));
  const setTokenizer = (change: (tokenizer: ReturnType<typeof gpt2TokenizerJson>) => void) => {
    const tokenizer = JSON.parse(new TextDecoder().decode(original["tokenizer.json"]));
    change(tokenizer);
    setText("tokenizer.json", JSON.stringify(tokenizer));
  };
  test.each<[string, () => void, RegExp]>([
    ["another architecture", () => setConfig({ model_type: "bloom" }), /model_type is "bloom"/],
    ["too few weights", () => setConfig({ n_layer: 200 }), /the \d+ parameters of config\.json take more/],
    ["a config of megabytes", () => setText("config.json", " ".repeat(2 ** 20 + 1)), /1048577 bytes; at most 1048576/],
    [
      "a tokenizer.json that puts a space first",
      () => setTokenizer(({ pre_tokenizer }) => Object.assign(pre_tokenizer, { add_prefix_space: true })),
      /tokenizer\.json is not valid: pre_tokenizer/,
    ],
    ["an empty tokenizer.json", () => setText("tokenizer.json", "{}"), /tokenizer\.json is not valid: pre_tokenizer/],
    ["no tokenizer", () => hub.files.delete("tokenizer.json"), /no tokenizer\.json/],
    [
      "another vocabulary",
      () => setTokenizer(({ model }) => Object.assign(model.vocab, { more: 300 })),
      /1 entries of the vocabulary are no byte, merge or special token, among them "more" \(300\)/,
    ],
  ])("%s is refused by name, before any weights are fetched", async (_, arrange, message) => {
    arrange();
    expect(await refusal()).toMatch(message);
    expect(hub.requestsFor(weights)).toEqual([]);
  });

  test("weights that are not numbers are refused by name, and leave no artifacts", async () => {
    await writeTinyModel(join(scratch, "broken"), 11, { brokenPosition: 7 });
    hub.files.set(weights, new Uint8Array(await readFile(join(scratch, "broken", weights))));
    expect(await refusal()).toMatch(/model: element 224 of model\.embed_positions\.weight is NaN/);
    expect(await filesIn(join(folder, "artifacts"))).toEqual([]);
  });

  test("weights of existing artifacts are never replaced by others", async () => {
    await run();
    await writeTinyModel(join(scratch, "other"), 12);
    hub.files.set(weights, new Uint8Array(await readFile(join(scratch, "other", weights))));
    expect(await refusal()).toMatch(/artifacts was made for other weights; choose another --out/);
    expect(Buffer.compare(await readFile(join(folder, weights)), original[weights])).toBe(0);
  });
});

test.skipIf(!existsSync("/dev/full"))("a full disk is named, with nothing under a final name", async () => {
  hub.fail(/safetensors$/, cutAfter(100), 1);
  hub.fail(/safetensors$/, cutAfter(0), 5);
  await refusal();
  const name = (await partial())!;
  await rm(join(folder, name));
  // /dev/full: every write fails with ENOSPC.
  await symlink("/dev/full", join(folder, name));
  expect(await refusal()).toMatch(/^no space left for .*model\.safetensors\.\w+\.partial: .* has \d+ bytes/);
  expect(await filesIn(folder)).not.toContain(weights);
});

test.each([
  ["a hub id", id],
  ["a folder", join(scratch, "original")],
  ["a GGUF file", "gpu-backend/models/smollm2-135m"],
])("%s that does not fit on the disk is refused with both sizes, and leaves nothing", async (_, source) => {
  disk.freeBytes = 1000;
  expect(await refusal({ source })).toMatch(/^no space for the model in .*: it needs \d{5,} bytes, and 1000 are free$/);
  expect(existsSync(folder)).toBe(false);
  expect(hub.requestsFor("config.json")).toEqual([]);
});

test("an import needs no space for what it has downloaded already", async () => {
  hub.fail(/safetensors$/, cutAfter(1000));
  hub.fail(/safetensors$/, cutAfter(0), 5);
  await refusal();
  disk.freeBytes = original[weights].length - 1000;
  await run();
});

describe("a local folder", () => {
  test("is made ready where it is", async () => {
    const local = join(folder, "local-gpt2");
    await mkdir(local, { recursive: true });
    for (const name of needed) await writeFile(join(local, name), original[name]);
    const { manifest } = await run({ source: local, out: null });
    expect(manifest.model.name).toBe("local-gpt2");
    expect(await filesIn(local)).toEqual(["artifacts", ...[...needed, made].sort()]);
    expect(hub.seen).toEqual([]);
  });

  test("is copied to --out, without what serving does not need", async () => {
    await run({ source: join(scratch, "original") });
    expect(await filesIn(folder)).toEqual(["artifacts", ...[...needed, made].sort()]);
    expect(await refusal({ source: folder, revision: "main" })).toMatch(/--revision is for models of the hub/);
  });

  test("replaces what a killed import of another base left there", async () => {
    await mkdir(folder, { recursive: true });
    for (const name of ["model.gguf.part-1", "model.gguf.part-3", made]) await writeFile(join(folder, name), "other");
    await run({ source: join(scratch, "original") });
    expect(await filesIn(folder)).toEqual(["artifacts", ...[...needed, made].sort()]);
  });

  test("that is not there is no hub id either", async () => {
    expect(await refusal({ source: "./nowhere" })).toMatch(/neither a folder or \.gguf file here nor a model id/);
  });
});
