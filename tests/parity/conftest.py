import pytest


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread():
    """In models as small as these, threads only wait for each other."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
