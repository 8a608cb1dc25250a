"""The user's own `conf/` in the working directory joins the configuration of threeshnet, in help and multirun too."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from threeshnet.installation import CONF, own_conf


class OwnConf(SearchPathPlugin):
    """Its files come after those of the package, so they can add a name and take none away."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        ours = any(element.path == str(CONF) for element in search_path.get_path())  # no other program's search path
        if ours and (own := own_conf()):
            search_path.append("own", str(own))
