/** What the publish command does to a bucket, over one in memory, with real artifacts of a tiny model. */
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type ArtifactSet, readArtifactSet } from "../../../infra/publish/artifact-set.ts";
import { listSwitches, type Publisher, publishSet, rollBack, switchLines } from "../../../infra/publish/publish.ts";
import {
  currentOf,
  edgeFilesOf,
  objectName,
  parsePointer,
  pointerName,
  previousOf,
} from "../../../shared/artifacts/bucket.ts";
import { edgeTableFile, manifestFile, tokenizerFile } from "../../../shared/artifacts/manifest.ts";
import { readTensorFile, tensorOf } from "../../../shared/artifacts/tensor-file.ts";
import { sha256Hex } from "../../../shared/bytes.ts";
import { MemoryStore } from "../../support/memory-store.ts";
import { writeTinyModel } from "../../support/tiny-model.ts";

let folder: string;
let first: ArtifactSet;
let second: ArtifactSet;
let third: ArtifactSet;
let otherModel: ArtifactSet;
const artifacts = (name: string) => path.join(folder, name, "artifacts");

/** The same weights with other words about them: another manifest. */
async function relabelled(name: string, label: string): Promise<ArtifactSet> {
  await cp(artifacts("first"), artifacts(name), { recursive: true });
  await edit(artifacts(name), (manifest) => {
    manifest.centroids[0].label = [label];
  });
  return readArtifactSet(artifacts(name));
}

interface EditableManifest {
  centroids: { label: string[] }[];
  model: object;
  files: object;
  hyperNetwork: object;
}

/** Changes the first value of a tensor of the hyper-network, and the manifest with it. */
async function setFloat(directory: string, tensor: string, value: number): Promise<void> {
  const file = path.join(directory, "hyper-network.safetensors");
  const bytes = await readFile(file);
  const { bytes: found } = tensorOf(readTensorFile(bytes), tensor);
  new DataView(found.buffer, found.byteOffset).setFloat32(0, value, true);
  await writeFile(file, bytes);
  const hash = await sha256Hex(bytes);
  await edit(directory, (manifest) => {
    Object.assign(manifest.hyperNetwork, { hash });
    Object.assign(Object(manifest.files)["hyper-network.safetensors"], { sha256: hash });
  });
}

async function edit(directory: string, change: (manifest: EditableManifest) => unknown): Promise<void> {
  const file = path.join(directory, "manifest.json");
  const manifest = JSON.parse(await readFile(file, "utf8"));
  change(manifest);
  await writeFile(file, JSON.stringify(manifest));
}

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "publish-"));
  await writeTinyModel(path.join(folder, "first"));
  await writeTinyModel(path.join(folder, "other"), 8);
  first = await readArtifactSet(artifacts("first"));
  second = await relabelled("second", "two");
  third = await relabelled("third", "three");
  otherModel = await readArtifactSet(artifacts("other"));
});
afterAll(() => rm(folder, { recursive: true }));

let store: MemoryStore;
let publisher: Publisher;
let said: string[];
beforeEach(() => {
  store = new MemoryStore();
  said = [];
  let clockMs = Date.UTC(2026, 10, 25);
  const now = () => {
    clockMs += 1000;
    return new Date(clockMs);
  };
  publisher = { store, now, say: (line) => said.push(line) };
});
const pointer = () => parsePointer(new TextDecoder().decode(store.objects.get(pointerName)));

describe("publish", () => {
  test("puts each file under the hash of its bytes, the manifest behind the others, the pointer last", async () => {
    const published = await publishSet(publisher, first);
    expect(published).toEqual({ manifest: first.manifestHash, before: null, uploaded: 4, present: 0, switched: true });
    const hashes = [...first.files.values()].map(({ sha256 }) => objectName(sha256));
    expect(store.written).toEqual([...hashes, pointerName]);
    expect(store.written.at(-2)).toBe(objectName(first.manifestHash));
    for (const { sha256, bytes } of first.files.values()) expect(store.objects.get(objectName(sha256))).toEqual(bytes);
    expect(pointer()).toEqual({
      format: 1,
      switches: [{ manifest: first.manifestHash, at: "2026-11-25T00:00:01.000Z" }],
    });
  });

  test("the pointer's metadata names what the edge reads of the set, after a rollback too", async () => {
    const filesOf = (set: typeof first) =>
      [manifestFile, edgeTableFile, tokenizerFile].map((name) => set.files.get(name)!.sha256);
    for (const set of [first, second]) await publishSet(publisher, set);
    expect(edgeFilesOf(store.metadata)).toEqual({ manifest: second.manifestHash, files: filesOf(second) });
    await rollBack(publisher, null);
    expect(edgeFilesOf(store.metadata)).toEqual({ manifest: first.manifestHash, files: filesOf(first) });
    expect(edgeFilesOf({})).toBeNull();
  });

  test("again it does nothing; another set uploads what differs, and remembers what was before", async () => {
    await publishSet(publisher, first);
    const again = await publishSet(publisher, first);
    expect(again).toMatchObject({ uploaded: 0, present: 4, switched: false });
    const next = await publishSet(publisher, second);
    expect(next).toMatchObject({ before: first.manifestHash, uploaded: 1, present: 3, switched: true });
    expect([currentOf(pointer()), previousOf(pointer())]).toEqual([second.manifestHash, first.manifestHash]);
  });

  test("cut off at any write it leaves the old set served, and goes on where it was", async () => {
    await publishSet(publisher, first);
    const before = store.objects.get(pointerName);
    for (let writes = 0; writes < 4; writes++) {
      let left = writes;
      store.onWrite = (_, bytes) => {
        if (left-- === 0) throw new Error("connection lost");
        return bytes;
      };
      for (const { sha256 } of otherModel.files.values()) store.objects.delete(objectName(sha256));
      await expect(publishSet(publisher, otherModel, { otherModel: true })).rejects.toThrow("connection lost");
      expect(store.objects.get(pointerName)).toEqual(before);
    }
    store.onWrite = (_, bytes) => bytes;
    const resumed = await publishSet(publisher, otherModel, { otherModel: true });
    expect(resumed).toMatchObject({ uploaded: 1, present: 3, switched: true });
  });

  test.each([
    ["truncated", (bytes: Uint8Array<ArrayBuffer>) => bytes.subarray(0, -1)],
    ["altered", (bytes: Uint8Array<ArrayBuffer>) => bytes.map((byte, i) => (i === 9 ? byte ^ 1 : byte))],
  ])("an object that arrives %s is found, and nothing switched; one found so is uploaded again", async (_, harm) => {
    await publishSet(publisher, first);
    store.onWrite = (_, bytes) => harm(bytes);
    await expect(publishSet(publisher, second)).rejects.toThrow(/does not read back/);
    expect(currentOf(pointer())).toBe(first.manifestHash);
    store.onWrite = (_, bytes) => bytes;
    expect(await publishSet(publisher, second)).toMatchObject({ uploaded: 1, switched: true });
  });

  test("of two publishers at once one switches, the other is told; afterwards both switches are in the history", async () => {
    await publishSet(publisher, first);
    const outcomes = await Promise.allSettled([publishSet(publisher, second), publishSet(publisher, third)]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    const [lost] = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [String(outcome.reason)] : []));
    const winner = currentOf(pointer());
    expect(lost).toContain(`another publisher switched to ${winner}`);
    const loser = winner === second.manifestHash ? third : second;
    await publishSet(publisher, loser);
    const switches = await listSwitches(store);
    expect(switches.map(({ manifest }) => manifest)).toEqual([loser.manifestHash, winner, first.manifestHash]);
    const [served, ...earlier] = switchLines(switches).trimEnd().split("\n");
    expect(served).toMatch(new RegExp(`^${loser.manifestHash} .*served now`));
    expect(earlier.filter((line) => line.includes("served"))).toEqual([]);
  });

  test("a switch whose answer was lost, so that it was sent twice, is a switch", async () => {
    await publishSet(publisher, first);
    const replace = store.replace.bind(store);
    store.replace = async (...args) => {
      await replace(...args);
      return replace(...args);
    };
    expect(await publishSet(publisher, second)).toMatchObject({ switched: true });
  });

  test("artifacts for other weights are refused unless that is meant", async () => {
    await publishSet(publisher, first);
    await expect(publishSet(publisher, otherModel)).rejects.toThrow(/weights.*--other-model/);
    expect(currentOf(pointer())).toBe(first.manifestHash);
    await publishSet(publisher, otherModel, { otherModel: true });
    expect(currentOf(pointer())).toBe(otherModel.manifestHash);
  });

  test("a dry run writes nothing, and says what would be written", async () => {
    expect(await publishSet(publisher, first, { dryRun: true })).toMatchObject({ uploaded: 4, switched: false });
    expect(store.objects.size).toBe(0);
    expect(said.filter((line) => line.startsWith("would"))).toHaveLength(5);
  });
});

describe("rollback", () => {
  test("goes to what was served before, and again to and fro", async () => {
    await expect(rollBack(publisher, null)).rejects.toThrow(/nothing was published/);
    await publishSet(publisher, first);
    await expect(rollBack(publisher, null)).rejects.toThrow(
      /the first that was published.*publish those with --artifacts/,
    );
    await publishSet(publisher, second);
    expect(await rollBack(publisher, null)).toMatchObject({ manifest: first.manifestHash, switched: true });
    expect(await rollBack(publisher, null)).toMatchObject({ manifest: second.manifestHash, switched: true });
    expect(await listSwitches(store)).toHaveLength(4);
  });

  test("goes to a manifest by its first digits, where they name one", async () => {
    for (const set of [first, second, third]) await publishSet(publisher, set);
    const { manifest } = await rollBack(publisher, first.manifestHash.slice(0, 8));
    expect(manifest).toBe(first.manifestHash);
    await expect(rollBack(publisher, "")).rejects.toThrow(/3 of the manifests/);
    await expect(rollBack(publisher, "0000000")).rejects.toThrow(/0 of the manifests/);
  });

  test("an object of another length under a file's name is never read to its end, and is uploaded again", async () => {
    await publishSet(publisher, first);
    const name = objectName(first.manifest.files["edge-table.safetensors"].sha256);
    const bytes = store.objects.get(name)!;
    store.objects.set(name, new Uint8Array(5e6));
    store.largestRead = 0;
    await publishSet(publisher, second);
    expect(store.objects.get(name)).toEqual(bytes);
    expect(store.largestRead).toBeLessThan(1e6);
  });

  test("a set that is not whole any more is not gone back to", async () => {
    await publishSet(publisher, first);
    await publishSet(publisher, second);
    const name = objectName(first.manifest.files["edge-table.safetensors"].sha256);
    store.objects.set(name, store.objects.get(name)!.slice(0, -1));
    await expect(rollBack(publisher, null)).rejects.toThrow(/edge-table.*not whole/);
    expect(currentOf(pointer())).toBe(second.manifestHash);
  });
});

describe("a folder", () => {
  const damaged: [string, (directory: string) => Promise<unknown>, RegExp][] = [
    ["with a file that is not there", (d) => rm(path.join(d, "edge-table.safetensors")), /cannot read.*edge-table/],
    [
      "with a changed byte",
      async (d) => {
        const file = path.join(d, "hyper-network.safetensors");
        const bytes = await readFile(file);
        bytes[bytes.length - 1] ^= 1;
        await writeFile(file, bytes);
      },
      /hyper-network\.safetensors has .* SHA-256/,
    ],
    [
      "whose manifest says otherwise",
      (d) => edit(d, (m) => Object.assign(m.model, { vocabularySize: 1000 })),
      /300.*1000/,
    ],
    ["of another format", (d) => edit(d, (m) => Object.assign(m, { format: 2 })), /format/],
    [
      "that names a file elsewhere",
      (d) => edit(d, (m) => Object.assign(m.files, { "../config.json": Object.values(m.files)[0] })),
      /files.*\.\.\/config\.json/,
    ],
    ["of other centroids", (d) => edit(d, (m) => m.centroids.pop()), /centroids/],
    [
      "that lists manifest.json",
      (d) => edit(d, (m) => Object.assign(m.files, { "manifest.json": Object.values(m.files)[0] })),
      /files.*manifest\.json/,
    ],
    ["of rank 10⁹", (d) => edit(d, (m) => Object.assign(m.hyperNetwork, { rank: 1e9 })), /rank is 1000000000.*4096/],
    ["of another rank than its bank", (d) => edit(d, (m) => Object.assign(m.hyperNetwork, { rank: 7 })), /w2 is/],
    ["of another scale", (d) => edit(d, (m) => Object.assign(m.centroids[0], { scale: 0.5 })), /c0.* scale 1.* 0\.5/],
    ["whose bank holds an infinite value", (d) => setFloat(d, "b", Number.POSITIVE_INFINITY), /b: value 0 is Infinity/],
    ["whose bank overflows", (d) => setFloat(d, "a", 1e30), /a: value 0 is .*1000000/],
    [
      "whose file is longer than declared",
      async (d) => writeFile(path.join(d, "edge-table.safetensors"), "x".repeat(1e6), { flag: "a" }),
      /edge-table\.safetensors has more than the \d+ bytes/,
    ],
  ];
  test.each(damaged)("%s is refused before anything is sent", async (_, damage, message) => {
    const directory = artifacts("damaged");
    await cp(artifacts("first"), directory, { recursive: true });
    await damage(directory);
    await expect(readArtifactSet(directory)).rejects.toThrow(message);
    await rm(directory, { recursive: true });
  });

  test("files of a terabyte beside the set are never read", async () => {
    const directory = artifacts("beside");
    await cp(artifacts("first"), directory, { recursive: true });
    for (const name of ["extra.bin", "manifest.json.bak"]) {
      await writeFile(path.join(directory, name), "");
      await truncate(path.join(directory, name), 2 ** 40);
    }
    const { files, manifestHash } = await readArtifactSet(directory);
    expect(manifestHash).toBe(first.manifestHash);
    expect([...files.keys()].sort()).toEqual([...first.files.keys()].sort());
  });

  test("whose adapters are no numbers is refused", async () => {
    await writeTinyModel(path.join(folder, "broken"), 9, { brokenCentroid: 1 });
    await expect(readArtifactSet(artifacts("broken"))).rejects.toThrow(/centroids.*NaN/);
  });
});
