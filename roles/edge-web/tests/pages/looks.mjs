// The edge's pages: a person scans by keyboard, makes the camera a virtual device with a click and
// forwards a port; then every page in each size: its picture, axe, the console.

import { readFileSync } from "node:fs";

const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const SIZES = {
  light: { colorScheme: "light", viewport: { width: 1360, height: 900 } },
  dark: { colorScheme: "dark", viewport: { width: 1360, height: 900 } },
  narrow: { colorScheme: "light", viewport: { width: 390, height: 844 }, hasTouch: true },
  tiny: { colorScheme: "dark", viewport: { width: 320, height: 640 }, hasTouch: true },
};
const PAGES = ["/", "/devices", "/devices/192.168.1.9", "/devices/192.168.1.66", "/scan", "/forwards", "/forwards/FORWARD", "/virtual-devices", "/gateways", "/traffic", "/log", "/api", "/nothing"];

function expect(holds, what) {
  if (!holds) throw new Error(what);
}

export default async ({ browser, args, picture, require }) => {
  const axe = readFileSync(require.resolve("axe-core"), "utf8");
  const [findings, errors] = [[], []];
  let at = "";
  const open = async (options = {}) => {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    page.on("pageerror", (error) => errors.push(`${at}: ${error}`));
    page.on("console", (message) => {
      const expected = /status of (403|404|422|503)/.test(message.text());
      if (!expected && ["error", "warning"].includes(message.type())) errors.push(`${at}: ${message.text()}`);
    });
    return page;
  };
  const look = async (page, name, size) => {
    at = `${name} (${size})`;
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 0) findings.push(`${at}: is ${wide} px wider than the window`);
    await page.evaluate(() => document.activeElement?.blur());
    await page.screenshot({ path: picture(`edge-${name}-${size}`), fullPage: true });
    await page.evaluate(axe);
    const { violations } = await page.evaluate((tags) => axe.run({ runOnly: tags }), RULES);
    for (const { id, nodes } of violations) {
      findings.push(`${at}: ${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join(" | ").slice(0, 500)}`);
    }
    expect((await page.evaluate(() => window.owned)) === undefined, `${at}: what a device says has run`);
  };

  // An empty list offers the scan.
  const first = await open(SIZES.light);
  await first.goto(`${args.empty}/devices`);
  await first.getByRole("button", { name: "Scan the LAN" }).waitFor();
  await look(first, "devices-empty", "light");

  // The camera becomes a virtual device with one click.
  const page = await open(SIZES.light);
  await page.goto(`${args.url}/devices`);
  await page.getByRole("link", { name: "Front-Door.local" }).click();
  await page.getByRole("button", { name: "Make it a virtual device" }).click();
  await page.getByText("It is reached at front-door.site-7.home.warren.internal now.").waitFor();
  expect(await page.getByRole("link", { name: "Open its page" }).getAttribute("href") === "http://front-door.site-7.home.warren.internal/", "its page");

  // A port is forwarded to it; twice is refused, with what was typed kept.
  await page.goto(`${args.url}/forwards`);
  for (const turn of [1, 2]) {
    await page.getByLabel("Port of this edge").fill("8080");
    await page.getByLabel("Device of the LAN").fill("192.168.1.9");
    await page.getByLabel("Its port").fill("80");
    await page.getByLabel("Name").fill(turn === 1 ? "camera" : "again");
    await page.getByRole("button", { name: "Save" }).click();
    if (turn === 1) await page.getByText("TCP port 8080 leads to port 80 of 192.168.1.9 (Front-Door.local).").waitFor();
  }
  await page.getByText("Port 8080 leads elsewhere already.").waitFor();
  expect((await page.getByLabel("Name").inputValue()) === "again", "what was typed is kept");
  await look(page, "forwards-wrong", "light");
  await page.goto(`${args.url}/forwards`);
  // The page learns by itself that it is open.
  await page.getByText("Open", { exact: true }).first().waitFor();
  const forward = (await page.getByRole("link", { name: "Change camera" }).getAttribute("href")).split("/").pop();
  await page.getByRole("button", { name: "Close camera" }).click();
  await page.getByText("It is closed.").waitFor();
  await page.getByRole("button", { name: "Open camera" }).click();
  await page.getByText("It is open.").waitFor();

  for (const [size, options] of Object.entries(SIZES)) {
    const page = await open(options);
    for (const path of PAGES) {
      at = path;
      await page.goto(args.url + path.replace("FORWARD", forward));
      const name = path === "/" ? "overview" : path.slice(1).replaceAll("/", "-").replaceAll(".", "-").toLowerCase();
      await look(page, name, size);
    }
    await page.context().close();
  }
  // Who may only look is told so.
  await page.goto(`${args.viewer}/`);
  await page.getByText("a device of nobody who manages this edge", { exact: false }).waitFor();
  await look(page, "viewer", "light");
  at = "viewer";
  await page.goto(`${args.viewer}/devices/192.168.1.9`).catch(() => {});
  await page.getByText("is a device of nobody who manages", { exact: false }).waitFor();
  await look(page, "viewer-refused", "light");
  // The appearance is kept.
  await page.goto(`${args.url}/log`);
  await page.getByRole("button", { name: "laptop" }).click();
  await page.getByRole("button", { name: "Dark", exact: true }).click();
  await page.waitForFunction(() => document.documentElement.dataset.theme === "dark");
  return { findings, errors };
};
