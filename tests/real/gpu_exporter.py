"""The exporter of the cards as a process, over a driver's library made for tests."""

import json
import sys

import httpx

from consilium.kernel.ports import free_port
from tests.real.server import Server


class GpuExporter(Server):
    """One exporter, which answers once it has read its cards.

    library      folder of the driver's library
    told         what the driver is told, as nvml_fake.c has it
    settings     its section of the configuration
    environment  more of the driver's variables
    """

    name = "gpu_metrics"

    def __init__(self, folder, library, told, *, settings=None, **environment):
        super().__init__(folder)
        self.port = free_port()
        self.environment = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": told, **environment}
        (self.folder / "token").write_text("of-this-test")
        at = {"grpc": f"127.0.0.1:{free_port()}", "metrics": f"http://127.0.0.1:{self.port}"}
        config = {"services": {"gpu_metrics": at}, "gpu_metrics": {"period_s": 0.5, **(settings or {})}}  # fmt: skip
        (self.folder / "config.json").write_text(json.dumps(config))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/metrics"

    def words(self):
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        program = [sys.executable, "-m", "consilium.gpu_metrics.app"]
        return ["env", *variables, *program, "--config", str(self.folder / "config.json")]

    def page(self):
        """Return what it says."""
        return httpx.get(self.url, timeout=60).text

    def answers(self):
        try:
            return "consilium_gpu_info{" in self.page()
        except httpx.HTTPError:
            return False
