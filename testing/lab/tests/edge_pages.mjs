// The technician's browser, on her laptop: she sets her password, signs in to the portal, opens the edge
// from there through the tunnel, scans its LAN, makes the camera a virtual device with a click, and opens
// the camera's own page.

const PASSWORD = "correct horse battery staple";

export default async ({ browser, args, picture }) => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1360, height: 900 } });
  const page = await context.newPage();
  const screenshot = (name) => page.screenshot({ path: picture(name), fullPage: true });
  await page.goto(args.password);
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Set password" }).click();
  await page.waitForURL("**/sign-in**");
  await page.getByLabel("E-mail").fill(args.email);
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("link", { name: "Edge devices" }).click();
  await page.getByRole("link", { name: "site-7" }).waitFor();
  await screenshot("lab-edge-portal");
  await page.getByRole("link", { name: "site-7" }).click();
  await page.getByRole("link", { name: "Open its own pages" }).click();
  await page.waitForURL(`${args.url}/**`);
  await page.getByRole("link", { name: "Devices", exact: true }).click();
  await page.getByRole("button", { name: "Scan the LAN" }).click();
  await page.getByText("The scan has begun.").waitFor();
  await screenshot("lab-edge-scan");
  await page.getByRole("heading", { name: "Last scan" }).waitFor();
  await screenshot("lab-edge-scanned");
  await page.goto(`${args.url}/devices`);
  await screenshot("lab-edge-devices");
  await page.goto(`${args.url}/devices/192.168.1.9`);
  await page.getByRole("button", { name: "Make it a virtual device" }).click();
  await page.getByText("It is reached at", { exact: false }).waitFor();
  await screenshot("lab-edge-device");
  const href = await page.getByRole("link", { name: "Open its page" }).getAttribute("href");
  const camera = await context.newPage();
  for (let turn = 0; ; turn += 1) {
    try {
      await camera.goto(href, { timeout: 5000 });
      break;
    } catch (error) {
      // The name and the way there are told within a moment.
      if (turn > 20) throw error;
      await camera.waitForTimeout(500);
    }
  }
  const title = await camera.title();
  await page.goto(`${args.url}/forwards`);
  await page.getByRole("button", { name: "Does it answer? port 8080" }).click();
  await page.getByText("it answers", { exact: false }).waitFor();
  await screenshot("lab-edge-forward");
  await page.goto(args.url);
  await screenshot("lab-edge-overview");
  return { page: title, href };
};
