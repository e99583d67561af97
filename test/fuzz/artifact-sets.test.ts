/**
 * Damaged and hostile sets of artifacts. A valid set is changed and published; edge, backend and publisher read it. Each of them accepts
 * the set, and then all its parts work, or throws an Error that names the file. Only folders named by a hash are written, and nothing of a
 * refused set stays in memory.
 * Another seed, or more sets: FUZZ_SEED=7 FUZZ_SETS=5000 npm test -- test/fuzz/artifact-sets.test.ts
 */
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { expect, test } from "vitest";
import { ArtifactBucket, type Bucket } from "../../edge/artifacts/artifact-bucket.ts";
import { assign } from "../../edge/plan/assign.ts";
import { generatedAdapters } from "../../gpu-backend/adapters/generated/generated.ts";
import { bankOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { artifactsOf, readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { setDownloads } from "../../gpu-backend/host/sets/set-folder.ts";
import { readArtifactSet } from "../../infra/publish/artifact-set.ts";
import { currentOf, objectName, parsePointer, pointerName, switchedTo } from "../../shared/artifacts/bucket.ts";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { manifestFile, setFiles } from "../../shared/artifacts/manifest.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import { mixtureSchema } from "../../shared/contracts/inference.ts";
import { promptEmbedding, rankCentroids } from "../../shared/math/assignment.ts";
import { defaultCalibration } from "../../shared/math/evidence.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyModel } from "../support/tiny-model.ts";
import { weighted } from "../support/weighted.ts";

const seed = Number(process.env.FUZZ_SEED) || (Date.now() % 1_000_000) + 1;
const runs = Number(process.env.FUZZ_SETS) || 300;
const timeoutMs = 20_000 + 100 * runs;

type Bytes = Uint8Array<ArrayBuffer>;
type Files = Map<string, Bytes>;
const bytesOf = (text: string) => new TextEncoder().encode(text);

const folder = temporaryFolder();
const model = path.join(folder, "model");
const { manifest } = await writeTinyModel(model, 7);
const calibrated = JSON.stringify({ ...manifest, evidence: defaultCalibration });
await writeFile(path.join(artifactsOf(model), manifestFile), calibrated);
const valid: Files = new Map();
for (const name of [...setFiles, manifestFile]) {
  valid.set(name, Uint8Array.from(await readFile(path.join(artifactsOf(model), name))));
}

/** JSON of a small, huge, negative or fractional number, or of null. */
const oddNumber = fc.constantFrom(..."0 -1 1 0.5 2 7 255 65537 1e9 -1e9 9007199254740993 1e400 null".split(" "));
const oddJson = fc.oneof(
  oddNumber,
  fc.constantFrom(...`"" ".." "manifest.json" "/etc/passwd" [] {} true [[[[]]]] "\\ud800" "NaN"`.split(" ")),
  fc.constantFrom(10, 1000, 100_000).map((length) => JSON.stringify("x".repeat(length))),
  fc.constantFrom(10, 1000, 100_000).map((length) => `[${"0,".repeat(length)}0]`),
  fc.constantFrom(10, 50_000).map((depth) => "[".repeat(depth) + "]".repeat(depth)),
);
/** A place in a file, as a share of its length. All places are equally likely: by default fast-check prefers the ends. */
const share = fc.noBias(fc.nat(999_999)).map((millionths) => millionths / 1e6);

type ChangeBytes = (bytes: Bytes) => Bytes;
const elementHarm: fc.Arbitrary<ChangeBytes> = fc.oneof(
  // First harm: a float that is not a number, infinite or huge. Second harm: a token id within the vocabulary or beyond it.
  fc.tuple(share, fc.constantFrom(0x7fc00000, 0x7f800000, 0x7e967699)).map(([at, word]) => (bytes: Bytes) => {
    const changed = Uint8Array.from(bytes);
    new DataView(changed.buffer).setUint32(4 * Math.floor((at * (bytes.length - 4)) / 4), word, true);
    return changed;
  }),
  fc.tuple(share, fc.oneof(fc.nat(310), fc.constant(65_535))).map(([at, id]) => (bytes: Bytes) => {
    const changed = Uint8Array.from(bytes);
    new DataView(changed.buffer).setUint16(2 * Math.floor((at * (bytes.length - 2)) / 2), id, true);
    return changed;
  }),
);
/** Flips bits of a byte, cuts the file short, or appends bytes. */
const byteHarm: fc.Arbitrary<ChangeBytes> = fc.oneof(
  fc.tuple(share, fc.integer({ min: 1, max: 255 })).map(([at, bits]) => (bytes: Bytes) => {
    const changed = Uint8Array.from(bytes);
    changed[Math.floor(at * bytes.length)] ^= bits;
    return changed;
  }),
  share.map((at) => (bytes: Bytes) => bytes.slice(0, Math.floor(at * bytes.length))),
  fc.uint8Array({ minLength: 1, maxLength: 50 }).map((more) => (bytes: Bytes) => Uint8Array.from([...bytes, ...more])),
);
/** Replaces one value or one key of a JSON text. */
const jsonHarm = fc.tuple(share, fc.boolean(), oddJson).map(([at, isKey, value]) => (text: string) => {
  const spots = [...text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?|-?\d[\d.e+-]*|\[\]|\{\}/g)].filter((m) => !isKey || m[1]);
  const spot = spots[Math.floor(at * spots.length)];
  if (!spot) return text;
  const replacement = spot[1] ? `${value.startsWith('"') ? value : '"odd"'}:` : value;
  return text.slice(0, spot.index) + replacement + text.slice(spot.index + spot[0].length);
});
/** Replaces one value or one key in the JSON header of a tensor file. */
const headerHarm = jsonHarm.map((harm) => (bytes: Bytes) => {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const header = bytesOf(harm(new TextDecoder().decode(bytes.subarray(8, 8 + length))));
  const changed = new Uint8Array(8 + header.length + bytes.length - 8 - length);
  new DataView(changed.buffer).setUint32(0, header.length, true);
  changed.set(header, 8);
  changed.set(bytes.subarray(8 + length), 8 + header.length);
  return changed;
});
function ofBytes(harm: (text: string) => string): ChangeBytes {
  return (bytes) => bytesOf(harm(new TextDecoder().decode(bytes)));
}
const manifestHarm = weighted([6, jsonHarm.map(ofBytes)], [1, byteHarm]);
const noHarm = fc.constant<ChangeBytes>((bytes) => bytes);
const seldom = <T, U>(arbitrary: fc.Arbitrary<T>, otherwise: U) =>
  weighted([1, arbitrary], [3, fc.constant(otherwise)]);

const harms = fc.record({
  file: fc.constantFrom<string>(...setFiles),
  harm: fc.oneof(elementHarm, elementHarm, byteHarm, headerHarm, noHarm),
  /** True: the manifest lists the changed file's size and hash, as a hostile publisher's does. False: it lists the original file's. */
  isListed: seldom(fc.constant(false), true),
  manifest: seldom(manifestHarm, null),
  pointer: seldom(manifestHarm, null),
});
type Harm = typeof harms extends fc.Arbitrary<infer T> ? T : never;

/** A changed set: its files by name, and the same files as objects by their names in the bucket. */
async function harmed({ file, harm, isListed, manifest: manifestHarm }: Harm): Promise<[files: Files, objects: Files]> {
  const files = new Map(valid);
  const bytes = harm(files.get(file)!);
  const listed = await sha256Hex(files.get(file)!);
  files.set(file, bytes);
  let manifest = new TextDecoder().decode(files.get(manifestFile));
  if (isListed) {
    const json = JSON.parse(manifest);
    json.files[file].bytes = bytes.length;
    manifest = JSON.stringify(json).replaceAll(listed, await sha256Hex(bytes));
  }
  files.set(manifestFile, manifestHarm ? manifestHarm(bytesOf(manifest)) : bytesOf(manifest));
  const objects: Files = new Map();
  for (const [name, content] of files) {
    const isDamaged = name === file && !isListed;
    objects.set(objectName(isDamaged ? listed : await sha256Hex(content)), content);
  }
  return [files, objects];
}

const namesFile = /manifest\.json|edge-table|tokenizer|hyper-network|current\.json|Centroid c\d|centroid c\d/;

/** What a reader returns, or null if it refuses the set with an Error that names a file. */
async function outcomeOf<T>(read: () => Promise<T>): Promise<T | null> {
  try {
    return await read();
  } catch (error) {
    expect(error).toBeInstanceOf(Error);
    const { message } = error as Error;
    expect(message).toMatch(namesFile);
    expect(message.length).toBeLessThan(2000);
    expect(message).not.toMatch(/Maximum call stack|Invalid (typed )?array|allocation|undefined \(reading/);
    return null;
  }
}

async function readAsEdge(manifestHash: string, objects: Files) {
  const get = async (name: string) => {
    const bytes = objects.get(name);
    return bytes && { etag: name, size: bytes.length, body: bytes, arrayBuffer: async () => bytes.slice().buffer };
  };
  const set = await new ArtifactBucket({ get } as unknown as Bucket).load(manifestHash);
  const { tokenizer } = set;
  const ids = tokenizer.encode("the cat is on the mat, é");
  expect(tokenizer.decode(ids)).toBe("the cat is on the mat, é");
  expect(tokenizer.decode([...Array(tokenizer.vocabularySize).keys()]).length).toBeGreaterThan(0);
  for (const { similarity } of rankCentroids(promptEmbedding(ids, set.table), set.centroids)) {
    expect(Math.abs(similarity)).toBeLessThan(1.001);
  }
  set.chatTemplate.encode([{ role: "user", content: "hello" }], 0);
  const { mixture } = assign(ids, "auto", set);
  expect(mixtureSchema.parse(mixture)).toEqual(mixture);
  return set.manifestHash;
}

/** Reads a set as an engine does before it opens a session. The bank's numbers go into the graph, so they are checked, too. */
async function readAsBackend(manifestHash: string, objects: Files, cache: string, model: string) {
  let largest = 0;
  const read = async (name: string, mostBytes: number) => {
    const bytes = objects.get(name)?.subarray(0, mostBytes + 1) ?? null;
    largest = Math.max(largest, bytes?.length ?? 0);
    return bytes;
  };
  const brought = await setDownloads(cache, read, () => new Date(0))(manifestHash, []);
  expect(largest).toBeLessThanOrEqual(setLimits.hyperNetworkBytes + 1);
  const { manifest, hyperNetwork } = await readArtifacts(model, brought.folder);
  const bank = bankOf(hyperNetwork);
  for (const values of [bank.a, bank.a0, bank.b]) expect(values.every(Number.isFinite)).toBe(true);
  const adapters = generatedAdapters(manifest, hyperNetwork);
  for (const { id } of manifest.centroids) {
    expect((await adapters.generate(id)).gates?.every(Number.isFinite)).toBe(true);
  }
  return manifestHash;
}

test("a changed set is served and all of it works, or is refused with a file's name", {
  timeout: timeoutMs,
}, async () => {
  console.log(`seed ${seed}, ${runs} sets`);
  const outcomes: Record<string, number> = {};
  const cache = path.join(folder, "cache");
  let run = 0;
  const before = await readdir(folder, { recursive: true });
  const live: number[] = [];
  const one = async (harm: Harm) => {
    const [files, objects] = await harmed(harm);
    const pointer = bytesOf(JSON.stringify(switchedTo(await sha256Hex(files.get(manifestFile)!), new Date(0), null)));
    const pointed = await outcomeOf(async () =>
      currentOf(parsePointer(new TextDecoder().decode(harm.pointer?.(pointer) ?? pointer))),
    );
    expect(pointed ?? "0".repeat(64), pointerName).toMatch(/^[0-9a-f]{64}$/);
    const hash = await sha256Hex(files.get(manifestFile)!);
    const edge = await outcomeOf(() => readAsEdge(hash, objects));
    const backend = await outcomeOf(() => readAsBackend(hash, objects, cache, model));
    const published = await outcomeOf(
      async () => (await readArtifactSet(await written(files, path.join(folder, "set")))).manifestHash,
    );
    // If a set can be published, the edge serves it, and so does a backend that has the set's model. An unchanged set can be published.
    if (published) {
      const isOfModel = isDeepStrictEqual(shapeIn(files), shapeIn(valid));
      expect([published, edge, backend]).toEqual([hash, hash, isOfModel ? hash : null]);
    }
    const isWhole = [...valid].every(([name, bytes]) => Buffer.from(bytes).equals(files.get(name)!));
    if (isWhole) expect(published).toBe(hash);
    const name = [edge && "edge", backend && "backend", published && "publisher"].filter(Boolean).join("+") || "nobody";
    outcomes[name] = (outcomes[name] ?? 0) + 1;
    if (++run % Math.ceil(runs / 6) === 0) live.push(liveBytes());
  };
  await fc.assert(fc.asyncProperty(harms, one), { seed, numRuns: runs, endOnFailure: true });
  const after = await readdir(folder, { recursive: true });
  expect(after.filter((name) => !before.includes(name) && !/^(set|cache)(\/|$)/.test(name))).toEqual([]);
  const folders = await readdir(cache);
  expect(folders.every((name) => /^[0-9a-f]{64}$/.test(name))).toBe(true);
  expect(folders.length).toBeLessThanOrEqual(11);
  const known = new Set<string>([...setFiles, manifestFile, ...folders]);
  const names = (await readdir(cache, { recursive: true })).map((name) => path.basename(name));
  expect(names.filter((name) => !known.has(name))).toEqual([]);
  console.log(
    `served by: ${JSON.stringify(outcomes)}; live heap in MB: ${live.map((bytes) => (bytes / 1e6).toFixed(1))}`,
  );
  // An edge keeps two sets. Nothing may remain of refused ones.
  expect(live.at(-1)! - live[1]).toBeLessThan(20e6);
});

/** The parts of the model in a manifest that a backend compares with its own model. The backend refuses the set if they differ. */
function shapeIn(files: Files): object {
  const { model } = JSON.parse(new TextDecoder().decode(files.get(manifestFile)));
  return { ...model, name: null, servedAs: null, chatTemplate: null };
}

/** Writes a set's files into a folder, as training would. */
async function written(files: Files, directory: string): Promise<string> {
  await mkdir(directory, { recursive: true });
  for (const [name, bytes] of files) await writeFile(path.join(directory, name), bytes);
  return directory;
}

/** Bytes that JavaScript and its buffers hold after garbage collection. */
function liveBytes(): number {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}
