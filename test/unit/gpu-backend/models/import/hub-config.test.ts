import http from "node:http";
import { expect, onTestFinished, test, vi } from "vitest";
import { readHubConfig, useProxyOfEnvironment } from "../../../../../gpu-backend/config.ts";

test("the hub is Hugging Face's without a token, unless the environment says otherwise", () => {
  expect(readHubConfig({})).toEqual({ endpoint: "https://huggingface.co", token: null });
  expect(readHubConfig({ HF_ENDPOINT: "http://mirror:8080/hf/", HF_TOKEN: "t" })).toEqual({
    endpoint: "http://mirror:8080/hf",
    token: "t",
  });
  expect(() => readHubConfig({ HF_ENDPOINT: "mirror" })).toThrow(/HF_ENDPOINT is "mirror".*http\(s\) URL/);
});

test("a proxy is used only where the environment names one", () => {
  const set = vi.spyOn(http, "setGlobalProxyFromEnv").mockReturnValue(() => {});
  onTestFinished(() => set.mockRestore());
  useProxyOfEnvironment({ NO_PROXY: "*" });
  expect(set).not.toHaveBeenCalled();
  const environment = { https_proxy: "http://proxy:3128" };
  useProxyOfEnvironment(environment);
  expect(set).toHaveBeenCalledExactlyOnceWith(environment);
});
