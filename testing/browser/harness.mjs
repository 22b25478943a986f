// Runs the default export of a script in headless Chromium; started by src/lib.rs, which says in the
// first argument, as JSON, what to run. The script gets { browser, context, page, args,
// screenshot, picture, require };
// what it returns goes to standard output as JSON. What goes wrong goes to standard error, with a
// picture of the page.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";

const job = JSON.parse(process.argv[2]);
const require = createRequire(path.join(job.modules, "from-here.js"));
const { chromium } = require("playwright-core");

const FLAGS = [
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const home = mkdtempSync(path.join(tmpdir(), "warren-browser-"));
process.on("exit", () => rmSync(home, { recursive: true, force: true, maxRetries: 3 }));

function picture(name) {
  mkdirSync(job.screenshots, { recursive: true });
  return path.join(job.screenshots, `${name}.png`);
}

async function run() {
  const { default: script } = await import(pathToFileURL(job.script));
  const browser = await chromium.launch({
    executablePath: job.chromium,
    headless: true,
    chromiumSandbox: false,
    args: [...FLAGS, ...job.flags],
    env: { ...process.env, HOME: home, XDG_CONFIG_HOME: home, XDG_CACHE_HOME: home },
  });
  try {
    const context = await browser.newContext();
    context.setDefaultTimeout(job.patience);
    const page = await context.newPage();
    page.on("pageerror", (error) => console.error(`the page: ${error}`));
    page.on("console", (message) => console.error(`the page says: ${message.text()}`));
    const screenshot = (name) => page.screenshot({ path: picture(name), fullPage: true });
    try {
      const { args } = job;
      return await script({ browser, context, page, args, screenshot, picture, require });
    } catch (error) {
      const name = `${path.basename(job.script, ".mjs")}-failed`;
      await screenshot(name).then(
        () => console.error(`a picture of the page is ${picture(name)}`),
        () => {},
      );
      throw error;
    }
  } finally {
    await browser.close();
  }
}

// A browser that hangs must not hang a test.
setTimeout(() => {
  console.error(`${job.script} takes longer than ${job.patience} ms`);
  process.exit(1);
}, job.patience).unref();

try {
  const result = await run();
  console.log(JSON.stringify(result ?? null));
} catch (error) {
  console.error(error?.stack ?? error);
  process.exitCode = 1;
}
