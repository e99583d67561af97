/** manifest.json and the pointer, written by an attacker who can write the bucket: every number and string is bounded. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { parsePointer, switchedTo } from "../../../shared/artifacts/bucket.ts";
import { setLimits } from "../../../shared/artifacts/limits.ts";
import { type Manifest, parseManifest } from "../../../shared/artifacts/manifest.ts";
import { smallArtifacts } from "../../support/small-base.ts";

const embedded = readFileSync(`${smallArtifacts}/manifest.json`, "utf8");

type Path = readonly (string | number)[];

/** The embedded manifest with one value replaced; `undefined` removes it. */
function withValue(path: Path, value: unknown): string {
  const manifest = JSON.parse(embedded);
  const parent = path.slice(0, -1).reduce((at, key) => at[key], manifest);
  parent[path.at(-1)!] = value;
  return JSON.stringify(manifest);
}

function refusalOf(json: string): string {
  try {
    parseManifest(json);
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error("it is accepted");
}

test("the embedded manifest is accepted", () => {
  expect(parseManifest(embedded).centroids).toHaveLength(16);
});

const { gates, hiddenUnits } = setLimits;

test.each<[Path, unknown, number]>([
  [["hyperNetwork", "rank"], 1e9, gates],
  [["hyperNetwork", "biases"], 1e9, gates],
  [["hyperNetwork", "hidden"], 1e9, hiddenUnits],
  [["model", "vocabularySize"], 1e9, setLimits.vocabulary],
  [["model", "hiddenSize"], 1e9, setLimits.hiddenSize],
  [["model", "contextTokens"], 1e9, setLimits.contextTokens],
  [["model", "chatTemplate"], "x".repeat(65_537), setLimits.chatTemplateCharacters],
  [["model", "name"], "x".repeat(257), setLimits.nameCharacters],
  [["embedding", "dimensions"], 1e9, setLimits.dimensions],
  [["embedding", "prefixTokens"], 1e9, setLimits.contextTokens],
  [["centroids", 3, "label"], ["x".repeat(513)], setLimits.labelCharacters],
  [["centroids", 3, "label"], Array(17).fill("x"), setLimits.labels],
  [["centroids", 3, "position"], [1e9, 0], setLimits.position],
  [["centroids", 3, "gain"], { nats: 1e9, ci95: [0, 0], tokens: 1 }, setLimits.gainNats],
  [["evidence", "similarityScale"], 1e9, setLimits.similarityScale],
  [["evidence", "base"], 1e9, 1],
  [["training", "corpora"], Array(1025).fill(1), setLimits.corpora],
  [["files", "edge-table.safetensors", "bytes"], 1e9, setLimits.edgeTableBytes],
  [["files", "tokenizer.safetensors", "bytes"], 1e9, setLimits.tokenizerBytes],
  [["files", "hyper-network.safetensors", "bytes"], 1e9, setLimits.hyperNetworkBytes],
])("%j: a value beyond its limit is refused with the field and the limit", (path, value, limit) => {
  const message = refusalOf(withValue(path, value));
  expect(message).toMatch(new RegExp(`manifest\\.json.*${path.join("\\.")}`));
  expect(message).toContain(String(limit));
  if (typeof value === "number") expect(message).toContain(`is ${value}:`);
});

const paths: Path[] = [
  ["hyperNetwork", "rank"],
  ["hyperNetwork", "hidden"],
  ["model", "vocabularySize"],
  ["model", "hiddenSize"],
  ["model", "contextTokens"],
  ["model", "stopIds", 0],
  ["embedding", "dimensions"],
  ["embedding", "prefixTokens"],
  ["centroids", 0, "size"],
  ["files", "edge-table.safetensors", "bytes"],
];
const odd = paths.flatMap((path) => [-1, 0.5, null, "7"].map((value) => [path, value] as const));
test.each(odd)("numbers that are none of their kind: %j is not %j", (path, value) => {
  expect(refusalOf(withValue(path, value))).toContain(path.join("."));
});

test.each(["1e400", "-1e400"])("numbers that are none of their kind: %s is read as infinite, and refused", (number) => {
  for (const path of ["centroids.0.scale", "evidence.floor"]) {
    const json = withValue(path.split("."), "HERE").replace('"HERE"', number);
    expect(refusalOf(json)).toContain(path);
  }
});

test.each<[string, Path, unknown]>([
  ["a negative scale", ["centroids", 0, "scale"], -1],
  ["a scale above 1", ["centroids", 0, "scale"], 1.25],
  ["a stop id out of the vocabulary", ["model", "stopIds", 0], 4096],
  ["no stop id", ["model", "stopIds"], []],
  ["a default temperature out of its range", ["model", "sampling"], { temperature: 2.5 }],
  ["a default of a parameter that is not the model's to choose", ["model", "sampling"], { seed: 1 }],
  ["no gates", ["hyperNetwork"], { hash: "0".repeat(64), rank: 0, biases: 0, hidden: 1 }],
  ["a hash of another hyper-network", ["hyperNetwork", "hash"], "0".repeat(64)],
  ["a centroid's id twice", ["centroids", 1, "id"], "c0"],
  ["a centroid by a name that requests use", ["centroids", 0, "id"], "off"],
  ["no centroid", ["centroids"], []],
  ["a model name that reads as a centroid's", ["model", "servedAs"], "gpt2:c0"],
])("%s is refused", (_, path, value) => {
  expect(refusalOf(withValue(path, value))).toContain(path.join("."));
});

const record: Manifest["files"]["edge-table.safetensors"] = { sha256: "0".repeat(64), bytes: 1, tensors: {} };
test.each([
  ...["..", ".", "", "manifest.json", "/etc/passwd", "../config.json", "a/b", "a\\b", "C:\\x", "nul", "extra.bin"],
  ...["EDGE-TABLE.safetensors", "edge-table.safetensors ", "edge-table.safetensors\u0000", "x".repeat(5000)],
])("a file named %j is refused by its name", (name) => {
  expect(refusalOf(withValue(["files", name], record))).toMatch(/files/);
});
test("__proto__ is a name like any other", () => {
  const json = withValue(["files", "HERE"], record).replace("HERE", "__proto__");
  expect(refusalOf(json)).toMatch(/files.*__proto__/);
});
test("a file too few is refused by its name", () => {
  const message = refusalOf(withValue(["files", "tokenizer.safetensors"], undefined));
  expect(message).toContain("files.tokenizer.safetensors");
});

test.each([
  ["more centroids than there may be", () => withValue(["centroids"], Array(1025).fill(1)), /1025|1024/],
  ["a million wrong centroids", () => withValue(["centroids"], Array(1_000_000).fill(1)), /more than 65536 values/],
  ["lists in lists", () => `${"[".repeat(500_000)}${"]".repeat(500_000)}`, /more than 65536 values/],
  ["many unknown fields", () => withValue(["model", "x"], Array(60_000).fill(1)), /model/],
  ["60,000 unknown names", () => JSON.stringify(Object.fromEntries(Array(60_000).entries())), /manifest/],
  ["a long name", () => JSON.stringify({ ["x".repeat(1_000_000)]: 1 }), /manifest/],
  ["3 MB of spaces", () => `${embedded}${" ".repeat(3_000_000)}`, /301\d\d\d\d characters, the maximum is 2097152/],
  ["no JSON", () => `{"a": "${"x".repeat(1_000_000)}`, /manifest\.json is not JSON/],
])("a needlessly large manifest is refused in a few words: %s", (_, json, message) => {
  const refusal = refusalOf(json());
  expect(refusal).toMatch(message);
  expect(refusal.length).toBeLessThan(1500);
});

const hash = "a".repeat(64);
const at = "2026-11-25T00:00:00.000Z";
const pointerOf = (switches: unknown) => JSON.stringify({ format: 1, switches });
test.each<[string, string, RegExp]>([
  ["a hash that is a path", pointerOf([{ manifest: "../../etc/passwd", at }]), /switches\.0\.manifest/],
  ["a hash in capitals", pointerOf([{ manifest: "A".repeat(64), at }]), /switches\.0\.manifest/],
  ["no switch", pointerOf([]), /switches/],
  ["too many switches", pointerOf(Array(101).fill({ manifest: hash, at })), /switches.*100/],
  ["a time that is none", pointerOf([{ manifest: hash, at: "9".repeat(9000) }]), /switches\.0\.at/],
  ["1 MB", pointerOf(Array(10_000).fill({ manifest: hash, at })), /\d{6,} characters, the maximum is 65536/],
  ["lists in lists", `${"[".repeat(30_000)}${"]".repeat(30_000)}`, /current\.json/],
  ["no JSON", "{", /current\.json is not JSON/],
])("the pointer %s is refused in a few words", (_, json, message) => {
  expect(() => parsePointer(json)).toThrow(message);
  expect(() => parsePointer(json)).toThrow(/^.{1,1500}$/s);
});

test("the pointer's whole history is accepted", () => {
  const times = Array.from({ length: 120 }, (_, i) => new Date(i));
  const pointer = times.reduce((last, time) => switchedTo(hash, time, last), switchedTo(hash, new Date(0), null));
  expect(parsePointer(JSON.stringify(pointer, null, 2)).switches).toHaveLength(100);
});
